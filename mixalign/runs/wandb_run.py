"""Scores and generated answers, to the run of Weights & Biases of a finished training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from mixalign.config.build import build
from mixalign.config.settings import RunSettings
from mixalign.runs.kept_ids import FILES, kept_id

__all__ = ["log_to_wandb"]


def log_to_wandb(
    settings: RunSettings, folder: Path, result: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> None:
    """Adds scores and a table of generated answers to the W&B run of a finished training; nothing where it has none.

    Args:
        folder: of the run; of one in rounds, the W&B run is that of its best round.
        samples: one entry a prompt.
    """
    place = folder / "rounds" / str(result["best_round"]) if "best_round" in result else folder
    for name, node in settings.logger.items():
        known = kept_id(name, place / FILES["WandbLogger"]) or node.get("id") or node.get("version")
        if not known or not str(node.get("_target_")).endswith("WandbLogger") or node.get("resume") == "never":
            continue
        logger: WandbLogger = build({**node, "id": known}, save_dir=str(place))
        columns = list(dict.fromkeys(key for row in samples for key in row))
        logger.log_table("generations", columns=columns, data=[[row.get(key) for key in columns] for row in samples])
        for task, row in result["tasks"].items():
            scores = {f"{key}/{task}": row[key] for key in ("score_before", "score") if key in row}
            logger.experiment.summary.update(scores)
        logger.experiment.finish()

"""One run of Weights & Biases for one training, also when it goes on."""

import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from mixalign.config.build import build
from mixalign.config.settings import RunSettings
from mixalign.files import read_json, write_json
from mixalign.together.agree import decide

__all__ = ["log_to_wandb", "with_kept_id"]

FILE = "wandb.json"  # name of a logger -> the id of its W&B run


def with_kept_id(name: str, node: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A logger's node, on all processes; one of W&B with an id that the folder keeps.

    A training that goes on in its folder, or is extended, so goes on in the same W&B run (Lightning's logger asks W&B
    for `resume="allow"`). A node with an `id` or a `version` of its own, or another `resume`, stays as it is.

    Args:
        name: of the logger.
        folder: of the training; a round or a proxy has one of its own.
    """
    own = bool(node.get("id") or node.get("version")) or node.get("resume", "allow") != "allow"
    if own or not str(node.get("_target_")).endswith("WandbLogger"):
        return dict(node)
    return {**node, "id": decide(partial(_kept_id, name, folder / FILE))}


def _kept_id(name: str, path: Path) -> str:
    """The id in the file, which is written before W&B hears of it."""
    kept = read_json(path) if path.is_file() else {}
    if name not in kept:
        kept[name] = secrets.token_hex(4)
        write_json(path, kept)
    return str(kept[name])


def log_to_wandb(
    settings: RunSettings, folder: Path, result: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]
) -> None:
    """Adds scores and a table of generated answers to the W&B run of a finished training; nothing where it has none.

    Args:
        folder: of the run; of one in rounds, the W&B run is that of its best round.
        samples: one entry a prompt.
    """
    place = folder / "rounds" / str(result["best_round"]) if "best_round" in result else folder
    kept = read_json(place / FILE) if (place / FILE).is_file() else {}
    for name, node in settings.logger.items():
        known = kept.get(name) or node.get("id") or node.get("version")
        if not known or not str(node.get("_target_")).endswith("WandbLogger") or node.get("resume") == "never":
            continue
        logger: WandbLogger = build({**node, "id": known}, save_dir=str(place))
        columns = list(dict.fromkeys(key for row in samples for key in row))
        logger.log_table("generations", columns=columns, data=[[row.get(key) for key in columns] for row in samples])
        for task, row in result["tasks"].items():
            scores = {f"{key}/{task}": row[key] for key in ("score_before", "score") if key in row}
            logger.experiment.summary.update(scores)
        logger.experiment.finish()

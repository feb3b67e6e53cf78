"""Ids of a training's runs in trackers, kept in its folder, so that a training that goes on is one run there too."""

import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger

from mixalign.errors import MixalignError
from mixalign.files import read_json, write_json
from mixalign.together.agree import decide

__all__ = ["kept_id", "keep_mlflow_run", "with_kept_id"]

FILES = {"WandbLogger": "wandb.json", "TrackioLogger": "trackio.json", "MLFlowLogger": "mlflow.json"}
"""End of a logger's class -> file of its ids, by the names of loggers."""


def with_kept_id(name: str, node: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A logger's node, on all processes; one of W&B, trackio or MLflow with an id that the folder keeps.

    A training that goes on in its folder, or is extended, so goes on in the same run there (Lightning's logger asks
    W&B for `resume="allow"`). A node with an id of its own, or another `resume`, stays as it is. MLflow gives ids
    itself: `keep_mlflow_run` keeps them.

    Args:
        name: of the logger.
        folder: of the training; a round or a proxy has one of its own.
    """
    file = next((file for kind, file in FILES.items() if str(node.get("_target_")).endswith(kind)), None)
    own = any(node.get(key) for key in ("id", "version", "run_id")) or node.get("resume", "allow") != "allow"
    if own or file is None:
        return dict(node)
    path = folder / file
    if file == FILES["MLFlowLogger"]:
        return {**node, "run_id": decide(partial(kept_id, name, path))}
    return {**node, "id": decide(partial(_made_id, name, path))}


def kept_id(name: str, path: Path) -> str | None:
    """The id in a file; None where it has none."""
    return read_json(path).get(name) if path.is_file() else None


def _made_id(name: str, path: Path) -> str:
    """The id in the file, which is written before the tracker hears of it."""
    if (found := kept_id(name, path)) is None:
        found = secrets.token_hex(4)
        _write(name, path, found)
    return found


def _write(name: str, path: Path, value: str) -> None:
    write_json(path, (read_json(path) if path.is_file() else {}) | {name: value})


def keep_mlflow_run(name: str, logger: Logger, folder: Path) -> None:
    """Begins a run of MLflow, or goes on with it, and keeps its id; nothing for other loggers.

    Raises:
        MixalignError: when the store does not have the run of the folder.
    """
    if not isinstance(logger, MLFlowLogger):
        return
    path = folder / FILES["MLFlowLogger"]
    known = kept_id(name, path)
    from mlflow.exceptions import MlflowException

    try:
        run_id = str(logger.run_id)
        if known == run_id:
            logger.experiment.update_run(run_id, "RUNNING")
    except MlflowException as error:
        if known is None:
            raise MixalignError(f"MLflow refuses a run: {error} Look at MLFLOW_TRACKING_URI.") from error
        raise MixalignError(
            f"{path} names the MLflow run {known}, which the store does not have. Set MLFLOW_TRACKING_URI or "
            f"`logger.{name}.tracking_uri` as it was, or remove that file to begin another run there."
        ) from error
    if known is None:
        _write(name, path, run_id)

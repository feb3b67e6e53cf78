"""The experiment trackers of one training: opened under names that fit, told what it is and what came out, closed."""

import csv
import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from mixalign.config.build import build
from mixalign.config.settings import RunSettings
from mixalign.errors import MixalignError
from mixalign.frozen.cache import Frozen
from mixalign.frozen.specialists import find_folds
from mixalign.jobs.job import Job
from mixalign.runs.kept_ids import keep_mlflow_run, with_kept_id
from mixalign.together.agree import is_first
from mixalign.training.checkpoints import checkpoint_step
from mixalign.training.metrics_file import MetricsFile
from mixalign.training.trackio_logger import TrackioLogger

__all__ = ["check_packages", "close_trackers", "open_trackers", "send_results", "send_start"]

log = logging.getLogger(__name__)

PACKAGES = {"TensorBoardLogger": "tensorboard", "MLFlowLogger": "mlflow", "TrackioLogger": "trackio"}
LOCAL_STORE = Path("runs/mlflow.db")  # of MLflow, where nothing names another; beside runs/cache
SUMS = ("loss", "gap", "excess", "accuracy")


def check_packages(loggers: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses a tracker whose package is not there, before anything is trained.

    Raises:
        MixalignError: naming the package.
    """
    for name, node in loggers.items():
        for kind, package in PACKAGES.items():
            if str(node.get("_target_")).endswith(kind) and find_spec(package) is None:
                raise MixalignError(
                    f"`logger={name}` needs the package {package}, which is not installed: `pip install {package}`, or "
                    f"`pip install 'mixalign[{package}]'`."
                )


def open_trackers(settings: RunSettings, folder: Path, resume: Path | None) -> dict[str, Logger]:
    """Builds the loggers of a training, by name, on all processes.

    Args:
        folder: of the training; a round or a proxy has one of its own.
        resume: the checkpoint that it goes on from.
    """
    loggers: dict[str, Logger] = {}
    for name, plain in settings.logger.items():
        node = with_kept_id(name, _with_defaults(plain, settings, folder), folder)
        if str(node.get("_target_")).endswith("TensorBoardLogger") and resume is not None:
            node.setdefault("purge_step", checkpoint_step(resume) + 1)  # what a killed process wrote behind it
        loggers[name] = build(node, save_dir=str(folder))
    return loggers


def _with_defaults(node: Mapping[str, Any], settings: RunSettings, folder: Path) -> dict[str, Any]:
    """A node with group, tags and store where the user left them open, here or in the tracker's own variables."""
    filled, target = dict(node), str(node.get("_target_"))
    if "group" in node and node["group"] is None and "WANDB_RUN_GROUP" not in os.environ:
        filled["group"] = _sweep_of(folder)
    if "tags" in node and node["tags"] is None and "WANDB_TAGS" not in os.environ:
        tags = {"mixer": settings.mixer_name, "objective": settings.objective_name, "seed": str(settings.seed)}
        filled["tags"] = [*list(tags.values())[:2], f"seed{settings.seed}"]
        if target.endswith("MLFlowLogger"):
            group = _sweep_of(folder)
            filled["tags"] = tags | ({"group": group} if group else {})
    if target.endswith("MLFlowLogger") and not node.get("tracking_uri"):
        filled |= _mlflow_store(node)
    return filled


def _mlflow_store(node: Mapping[str, Any]) -> dict[str, Any]:
    if found := os.environ.get("MLFLOW_TRACKING_URI"):
        return {"tracking_uri": found}
    LOCAL_STORE.parent.mkdir(parents=True, exist_ok=True)
    place = str(LOCAL_STORE.with_name("mlflow_artifacts").absolute())
    return {"tracking_uri": f"sqlite:///{LOCAL_STORE}", "artifact_location": node.get("artifact_location") or place}


def _sweep_of(folder: Path) -> str | None:
    """The name of the sweep's folder, where Hydra wrote what the sweep is; a round lies two folders below its run."""
    above = folder.absolute().parents
    return next((place.name for place in above[:3] if (place / "multirun.yaml").is_file()), None)


def send_start(
    loggers: Mapping[str, Logger], job: Job, reference: Frozen | None, folder: Path, resume: Path | None
) -> None:
    """Tells every tracker what config.yaml holds, and the curves of the specialists; on the first process.

    Args:
        reference: None where no specialist's losses are used.
    """
    if not is_first():
        return
    for name, logger in loggers.items():
        keep_mlflow_run(name, logger, folder)
        _send_config(logger, job.plain)
    curves = {} if reference is None else _curves(job, reference)
    begun = checkpoint_step(resume) if resume is not None else 0
    for logger in loggers.values():
        if isinstance(logger, WandbLogger):
            logger.experiment.define_metric("specialist_loss/*", step_metric="specialist_step")
        if isinstance(logger, MetricsFile) or (begun and not isinstance(logger, TensorBoardLogger)):
            continue  # it has them already; TensorBoard drops what lies behind the step that it goes on from
        for name, curve in curves.items():
            for step, loss in curve:
                if step <= begun:
                    continue
                if isinstance(logger, WandbLogger):
                    logger.experiment.log({f"specialist_loss/{name}": loss, "specialist_step": step})
                else:
                    logger.log_metrics({f"specialist_loss/{name}": loss}, step=step)


def _send_config(logger: Logger, plain: Mapping[str, Any]) -> None:
    """Through the logger's own `log_hyperparams`; MLflow keeps the first value of a parameter for good."""
    if not isinstance(logger, MLFlowLogger):
        return logger.log_hyperparams(dict(plain))
    known = logger.experiment.get_run(logger.run_id).data.params
    if not known:
        return logger.log_hyperparams(dict(plain))
    if known.get("steps") != str(plain["steps"]):  # of a run that is extended; no other setting may change
        logger.experiment.set_tag(logger.run_id, "steps", str(plain["steps"]))


def _curves(job: Job, reference: Frozen) -> dict[str, list[tuple[int, float]]]:
    """Step and training loss of every specialist whose folder has them, by task, or `<task>.<fold>of<folds>`."""
    curves = {}
    for task, models in find_folds(job, reference).items():
        for fold, model in enumerate(models):
            path = model.place / "metrics.csv"
            if path.is_file():
                name = task if len(models) == 1 else f"{task}.{fold + 1}of{len(models)}"
                with path.open(newline="") as file:
                    rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
                curves[name] = [(int(row["step"]), float(row["train/loss"])) for row in rows]
    return curves


def send_results(loggers: Mapping[str, Logger], plain: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Sends what `eval.json` holds, while the trackers are still open; on the first process.

    W&B gets a table and values of the run's summary; others get the same numbers as metrics of the last step, and
    metrics.csv nothing.

    Args:
        plain: the configuration, beside which TensorBoard shows them.
    """
    if not is_first():
        return
    values, columns = _values(result), list(dict.fromkeys(key for row in result["tasks"].values() for key in row))
    for logger in loggers.values():
        if isinstance(logger, WandbLogger | TrackioLogger):
            rows = [[task, *(row.get(key) for key in columns)] for task, row in result["tasks"].items()]
            logger.log_table(result["split"], columns=["task", *columns], data=rows)
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(values | _worst_tasks(result))
        elif isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(plain), values, result["steps"])
        elif not isinstance(logger, MetricsFile):
            logger.log_metrics(values, step=result["steps"])


def _values(result: Mapping[str, Any]) -> dict[str, float]:
    """`test/worst_excess`, `test/mean_loss`, `test_loss/<task>` ... ; the split's name where it is not test."""
    split, values = result["split"], {}
    for name, worst in result["worst"].items():
        values[f"{split}/worst_{name}"] = worst["value"]
    for name, value in result["mean"].items():
        values[f"{split}/mean_{name}"] = value
    for task, row in result["tasks"].items():
        for name, value in row.items():
            if name != "rows":
                values[f"{split}_{name}/{task}"] = value
    return {key: value for key, value in values.items() if type(value) in (int, float) and isfinite(value)}


def _worst_tasks(result: Mapping[str, Any]) -> dict[str, str]:
    return {f"{result['split']}/worst_{name}_task": worst["task"] for name, worst in result["worst"].items()}


def close_trackers(loggers: Mapping[str, Logger]) -> None:
    """Ends their runs: the next run of a sweep would write into those that are open."""
    for name, logger in loggers.items():
        try:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()
            elif isinstance(logger, TrackioLogger):
                logger.finish()
        except Exception as error:  # of a network, which must not hide the error of the training
            log.warning("`logger.%s` could not be closed: %s", name, error)

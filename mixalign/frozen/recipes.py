"""What decides the weights of frozen models, and how much work their trainings are; without Lightning, as plans ask."""

from collections.abc import Mapping, Sequence
from typing import Any

from mixalign.course import TRAINING
from mixalign.data.dataset import TaskDataset
from mixalign.frozen.cache import Frozen
from mixalign.jobs.job import Job, rows_fingerprint
from mixalign.models.load import LoRA
from mixalign.training.optimizer import Optimizer

__all__ = ["given", "mean_length", "optimizer_recipe", "recipe_from_reference", "rounding_recipe", "training_work"]

LATER = ("eps", "decay_steps", "min_lr", "modules_to_save", "use_dora")  # keys of the optimizer and of adapters


def recipe_from_reference(job: Job, reference: Frozen, tables: Sequence[TaskDataset]) -> dict[str, Any]:
    """What decides the weights of every model that is trained from the reference policy and then frozen."""
    lora = job.settings.lora
    later: dict[str, Any] = {}  # what older caches did otherwise
    if lora is not None and lora.lora_dropout:
        later["dropout"] = "acts"
    later |= rounding_recipe(job)
    return later | {
        "start": reference.identity,
        "rows": rows_fingerprint(tables),
        "optimizer": optimizer_recipe(job),
        "lora": _as_before(job.settings.plain["lora"] or {}, LoRA),
        "precision": job.precision,
        "seed": job.settings.specialists.seed,
    }


def rounding_recipe(job: Job) -> dict[str, str]:
    """How layers with an adapter round in 16 bits; empty where they do not, so that what is cached still fits."""
    lora = job.settings.lora
    if lora is None or job.precision.startswith(("32", "64")):
        return {}
    return {"rounding": "once in training, too" if lora.lora_dropout else "once"}


def optimizer_recipe(job: Job) -> dict[str, Any]:
    """The optimizer's settings but for its learning rate, which each training has for itself."""
    node = _as_before(job.settings.plain["optimizer"], Optimizer)
    return {key: value for key, value in node.items() if key not in ("_target_", "lr")}


def _as_before(node: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """A node without the keys that came later, where they change nothing: what older versions made still fits."""
    return {key: value for key, value in node.items() if key not in LATER or value != getattr(kind, key)}


def given(**settings: Any) -> dict[str, Any]:
    """Those that are not None: entries of a recipe that came later leave what older versions made as it is."""
    return {key: value for key, value in settings.items() if value is not None}


def training_work(tables: Sequence[TaskDataset], steps: int, batch_size: int) -> dict[str, float]:
    """The work of a training on equal shares of some tables, as `mixalign.course` counts it."""
    return {TRAINING: 3.0 * steps * batch_size * mean_length(tables)}


def mean_length(datasets: Sequence[TaskDataset]) -> float:
    """Tokens of a row, on average over tasks."""
    return sum(float(d.length_N.mean()) for d in datasets) / len(datasets)

"""Which weights of a training are kept: the last, the best of the validations, or the mean of the last steps."""

import logging
from math import inf, isnan
from typing import Any

from lightning.pytorch.callbacks import Callback

from mixalign.data.batches.module import MixtureData
from mixalign.models.precision import warn_below_rounding
from mixalign.training.average_share import CHOSEN
from mixalign.training.callbacks.average import AverageWeights
from mixalign.training.callbacks.best_checkpoint import BestCheckpoint
from mixalign.training.module import AlignModule
from mixalign.training.sharding import load_weights
from mixalign.training.validation import summary_of

__all__ = ["put_exported"]

log = logging.getLogger(__name__)
EARLY = (
    "The training ended at step %d, before the first step of the mean of the weights (%d): `export=averaged` keeps the "
    "weights of its last step. Set `average_last` to a larger share to average such a training."
)
TIED = (
    "By %s the last weights are as good as those of step %d, the first to reach %.4g, which are kept. It cannot "
    "tell them apart: a clipped excess ends at 0. `export=best_gap` can; `export=last` takes the last ones."
)


def put_exported(export: str, trainer: Any, module: AlignModule, data: MixtureData) -> dict[str, Any]:
    """Puts the weights to keep into the module; says so where their training is below rounding.

    The mean of the last steps is validated on the rows that the validations read. Where `export` chooses, it is kept
    if it is better than every validation of the training by the same monitor.

    Returns:
        What `eval.json` has as `exported`: `step` (of a mean its last one), and the `monitor` and its `value` where a
        monitor chose. With a mean: `candidates`, the values of the last weights, the best ones and the mean by
        `candidates.by`; where it is kept, `averaged` has its first step and its last, and `validation` its validation:
        quantity -> task -> value.

    Raises:
        MixalignError: when the best checkpoint is wanted and gone.
    """
    exported = _chosen(export, trainer, module, data)
    warn_below_rounding(module.model, trainer.precision)
    return exported


def _chosen(export: str, trainer: Any, module: AlignModule, data: MixtureData) -> dict[str, Any]:
    keeper, average = _find(trainer, BestCheckpoint), _find(trainer, AverageWeights)
    if average is None or not average.count:
        if average is not None and export == "averaged":
            log.warning(EARLY, trainer.global_step, average.first)
        return _last_or_best(export, trainer, module, keeper)
    average.swap(module)
    values = _candidates(trainer, module, data, keeper)
    more = {"candidates": {"by": keeper.monitor, **values}} if values else {}
    if export == "averaged" or (export in CHOSEN and values and _lower(values["averaged"], values["best"])):
        by = {"monitor": keeper.monitor, "value": values["averaged"]} if export in CHOSEN else _unchosen()
        steps = {"step": trainer.global_step, **by, "averaged": [average.begun, trainer.global_step]}
        return steps | more | ({"validation": _by_task(module)} if values else {})
    average.swap(module)
    return _last_or_best(export, trainer, module, keeper) | more


def _last_or_best(export: str, trainer: Any, module: AlignModule, keeper: BestCheckpoint) -> dict[str, Any]:
    if export not in CHOSEN or keeper.best is None:
        return {"step": trainer.global_step, **_unchosen()}
    exported = keeper.exported()
    newest = keeper.current_score
    if newest is not None and exported["step"] < trainer.global_step and exported["value"] == float(newest):
        log.warning(TIED, keeper.monitor, exported["step"], exported["value"])
    load_weights(module, keeper.best)
    return exported


def _candidates(
    trainer: Any, module: AlignModule, data: MixtureData, keeper: BestCheckpoint
) -> dict[str, float | None]:
    """The monitor's values, the mean being in the module; empty where nothing was validated."""
    if keeper.best is None:
        return {}
    trainer.validate(module, data.val_dataloader(), verbose=False)
    averaged = summary_of(module.evaluation)[str(keeper.monitor)]
    found = {"last": keeper.current_score, "best": keeper.best_model_score, "averaged": averaged}
    return {name: None if value is None else float(value) for name, value in found.items()}


def _by_task(module: AlignModule) -> dict[str, dict[str, float]]:
    quantities = {name: value_K.tolist() for name, value_K in module.evaluation.items() if name != "count"}
    return {name: dict(zip(module.tasks, values, strict=True)) for name, values in quantities.items()}


def _lower(value: float | None, than: float | None) -> bool:
    known, other = (inf if x is None or isnan(x) else x for x in (value, than))
    return known < other


def _unchosen() -> dict[str, Any]:
    return {"monitor": None, "value": None}


def _find(trainer: Any, kind: type[Callback]) -> Any:
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)

"""Checks that the frozen models' numbers belong to this model and this data, and are of use."""

import logging
from typing import Any

import lightning as L
import torch

from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.objectives.base import Objective
from mixalign.objectives.frozen_losses import frozen_losses

__all__ = ["SpecialistCheck"]

log = logging.getLogger(__name__)


class SpecialistCheck(L.Callback):
    """Before training: specialists that do not help are named. At the first batch: cached scores must fit.

    A run starts at the reference policy, so the first batch's loss must be the one that the cached reference
    log-probabilities give (log 2 for DPO). Any other number means that the scores are of another model.

    Args:
        tolerance: largest difference in loss that rounding may explain, nats; ten times as much in 16 bits.
        judges: whether it looks at the specialists; not where the training rows have a baseline's losses.
    """

    def __init__(self, tolerance: float = 0.02, *, judges: bool = True) -> None:
        self.tolerance, self.judges = tolerance, judges

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        data = trainer.datamodule
        for task, train in enumerate(data.train):
            if self.judges and "specialist_loss" in train.columns:
                start = _start(task, train, pl_module.objective)
                _judge(train, start)
                if data.validation and "specialist_loss" in data.validation[task].columns:
                    _compare(train, data.validation[task], start)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx > 0 or "reference_logp_BS" not in batch or trainer.global_step > 1:
            return
        start = {"kl_K": torch.zeros_like(batch["kl_K"])} if "kl_K" in batch else {}
        expected_B = pl_module.objective.scores(batch["reference_logp_BS"].double(), {**batch, **start})["loss"]
        off = float((outputs["loss_B"] - expected_B).abs().max())
        allowed = self.tolerance * (10 if "16" in str(trainer.precision) else 1)
        if not off <= allowed and torch.isfinite(outputs["loss_B"]).all():
            raise MixalignError(
                f"The cached reference log-probabilities are not those of the model that training starts from: the "
                f"first loss differs by {off:.3g} nats from the {float(expected_B.mean()):.3f} that they give. Delete "
                "the score tables of this reference, or set `reference.mode=frozen_copy`."
            )


def _start(task: int, table: TaskDataset, objective: Objective) -> float | None:
    """Mean loss of the reference policy, with which training starts; None where it is not known."""
    if "reference_logp" not in table.columns:
        return None
    return table.mean(frozen_losses(objective, table, table.columns["reference_logp"], task))


def _judge(train: TaskDataset, start: float | None) -> None:
    """Warns when a specialist is no better on its own rows than the reference policy."""
    specialist = train.mean(train.columns["specialist_loss"])
    if start is not None and specialist >= start:
        log.warning(
            "The specialist of task `%s` is no better than the model that training starts from (loss %.3f against "
            "%.3f on its training rows): its excess says nothing. Train it for more steps or with a "
            "higher learning rate.",
            train.task, specialist, start,
        )  # fmt: skip


def _compare(train: TaskDataset, validation: TaskDataset, start: float | None) -> None:
    """Warns when a specialist knows its own rows far better than others.

    That is when its loss there is less than half of that on held-out rows, and the difference more than a tenth of what
    it took off the start's loss, and more than two standard errors of the held-out mean.
    """
    loss_N = validation.columns["specialist_loss"]
    specialist, held_out = train.mean(train.columns["specialist_loss"]), validation.mean(loss_N)
    gained = held_out if start is None else max(start, held_out) - specialist
    error = float(loss_N.std()) / len(loss_N) ** 0.5
    if held_out - specialist > max(0.5 * held_out, 0.1 * gained, 2 * error):
        log.warning(
            "The specialist of task `%s` has memorised its rows (loss %.3f on training rows, %.3f on held-out "
            "ones), so that excess turns into plain loss. Train specialists for fewer steps.",
            train.task, specialist, held_out,
        )  # fmt: skip

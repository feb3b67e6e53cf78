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
                self._judge(task, train, pl_module.objective)
                if data.validation and "specialist_loss" in data.validation[task].columns:
                    self._compare(train, data.validation[task])

    def _judge(self, task: int, train: TaskDataset, objective: Objective) -> None:
        """Warns when a specialist is no better on its own rows than the reference policy."""
        if "reference_logp" not in train.columns:
            return
        specialist = train.mean(train.columns["specialist_loss"])
        start = train.mean(frozen_losses(objective, train, train.columns["reference_logp"], task))
        if specialist >= start:
            log.warning(
                "The specialist of task `%s` is no better than the model that training starts from (loss %.3f against "
                "%.3f): its excess says nothing. Train it for more steps or with a higher learning rate.",
                train.task, specialist, start,
            )  # fmt: skip

    def _compare(self, train: TaskDataset, validation: TaskDataset) -> None:
        """Warns when a specialist knows its own rows far better than others."""
        specialist = train.mean(train.columns["specialist_loss"])
        held_out = validation.mean(validation.columns["specialist_loss"])
        if held_out - specialist > max(0.25, 0.5 * held_out):
            log.warning(
                "The specialist of task `%s` has memorised its rows (loss %.3f on training rows, %.3f on held-out "
                "ones), so that excess turns into plain loss. Train specialists for fewer steps.",
                train.task, specialist, held_out,
            )  # fmt: skip

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx > 0 or "reference_logp_BS" not in batch or trainer.global_step > 1:
            return
        expected_B = pl_module.objective.scores(batch["reference_logp_BS"].double(), batch)["loss"]
        off = float((outputs["loss_B"] - expected_B).abs().max())
        allowed = self.tolerance * (10 if "16" in str(trainer.precision) else 1)
        if not off <= allowed and torch.isfinite(outputs["loss_B"]).all():
            raise MixalignError(
                f"The cached reference log-probabilities are not those of the model that training starts from: the "
                f"first loss differs by {off:.3g} nats from the {float(expected_B.mean()):.3f} that they give. Delete "
                "the score tables of this reference, or set `reference.mode=frozen_copy`."
            )

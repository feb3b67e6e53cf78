"""Kahneman-Tversky optimisation: single answers with a verdict, no pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from mixalign.checks import check_choice
from mixalign.losses.curvature import draw_slopes
from mixalign.losses.kto import kl_sums, kto
from mixalign.models.forward import score_completions
from mixalign.objectives.base import Form, Scores, by_task, check_each, check_overrides, per_task
from mixalign.types import Batch

__all__ = ["KTO"]

SETTINGS = ("beta", "desirable_weight", "undesirable_weight")  # may differ by task
FORMS: dict[str, Form] = {"kto": "mismatched", "apo_zero_unpaired": "unpaired"}


@dataclass(frozen=True)
class KTO:
    """The KTO loss of each answer (arXiv 2402.01306, eq. 7), as TRL 1.16's KTOTrainer has it.

    The point that an answer's log ratio is measured from, z_0 in the paper, is the mean log ratio of prompts of the
    same task with another row's answer, at least 0, without a gradient. The other answer is a row's second completion
    (see `with_mismatched`), so that its score under the reference policy is known from the tables. The mean is

    - in training over the task's rows of the global batch of the step: all micro-batches and processes. A pass without
      gradients over the other answers comes before the first backward pass of the step, and the rows' own answers
      alone are read with gradients: a pass more over the prompts, and no gradients of other answers;
    - in validation, evaluation and the losses of specialists over all rows of the task's table, after one pass;
    - in probes and influence over the task's rows that were drawn for them.

    So no loss depends on `micro_batch_size`, `eval_batch_size`, the layout of batches or the number of processes, nor
    on the other tasks of the mixture. The paper and TRL have one mean over each micro-batch (TRL: of all processes),
    whatever tasks its rows are of, and TRL pairs answers within that batch; with one task and no accumulation the
    losses are TRL's. A mean over n rows that is cut off at 0 is too large for small n: by .4 standard deviations of a
    row's ratio over sqrt(n) where the true mean is 0, and by nothing at the reference policy.

    Accuracy is the share of answers on their side of the point, a tie not being one, and the margin how far on it they
    are, beta times nats.

    Attributes:
        beta: how soon an answer counts as good enough; a tuple has one value a task, here and below.
        loss: `kto`, or `apo_zero_unpaired`: the same measured from 0, without another answer.
        desirable_weight: of the loss of desirable answers.
        undesirable_weight: of the loss of the others. The paper (eq. 8) wants the ratio of the two, times that of the
            numbers of answers, within 1 and 4/3.
    """

    beta: float | tuple[float, ...] = 0.1
    loss: str = "kto"
    desirable_weight: float | tuple[float, ...] = 1.0
    undesirable_weight: float | tuple[float, ...] = 1.0

    name: ClassVar[str] = "kto"
    uses_reference: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "margin")

    def __post_init__(self) -> None:
        check_choice("objective.loss", self.loss, FORMS)
        check_each("objective.beta", self.beta, 0, open_low=True, why="0.1 is usual.")
        check_each("objective.desirable_weight", self.desirable_weight, 0)
        check_each("objective.undesirable_weight", self.undesirable_weight, 0)

    @property
    def form(self) -> Form:
        return FORMS[self.loss]

    def for_tasks(self, overrides: Sequence[Mapping[str, Any]]) -> "KTO":
        check_overrides(self.name, overrides, SETTINGS)
        changed = {key for override in overrides for key in override}
        settings: dict[str, Any] = {key: per_task(key, getattr(self, key), overrides) for key in changed}
        return replace(self, **settings)

    def scores(self, logp_BS: Tensor, batch: Batch) -> Scores:
        loss_B, h_B = self._loss(_ratios(logp_BS, batch)[:, :1], self._kl(batch), batch)
        return {"loss": loss_B.float(), "accuracy": (h_B > 0).float(), "margin": h_B.detach().float()}

    def kl_sums(self, logp_BS: Tensor, batch: Batch, num_tasks: int) -> Tensor:
        """The sums (2, K) behind `kl_K`, see `mixalign.losses.kto`, of batches whose last completion is the other."""
        return kl_sums(_ratios(logp_BS, batch)[:, -1], batch["task_B"], num_tasks, batch.get("weight_B"))

    def __call__(self, model: nn.Module, batch: Batch) -> Scores:
        return self.scores(score_completions(model, batch).logp_BS, batch)

    def fisher_loss(self, model: nn.Module, batch: Batch, generator: Generator) -> Tensor:
        """Log ratios times random slopes, whose second moment is the convex part of the loss's second derivative.

        The loss is convex where an answer is on its side of the point, which is held fixed.
        """
        own_BS = _ratios(score_completions(model, batch).logp_BS, batch)[:, :1]
        kl_B = self._kl(batch)
        slope_BS = draw_slopes(lambda x_BS: self._loss(x_BS, kl_B, batch)[0], own_BS.detach(), generator)
        return (slope_BS * own_BS).sum(1).float()

    def _kl(self, batch: Batch) -> Tensor | float:
        return batch["kl_K"][batch["task_B"]] if self.loss == "kto" else 0.0

    def _loss(self, own_BS: Tensor, kl_B: Tensor | float, batch: Batch) -> tuple[Tensor, Tensor]:
        """The weighted loss and h (B,), of the log ratios of the rows' own answers (B, 1)."""
        task_B, desirable_B = batch["task_B"], batch["label_B"]
        loss_B, h_B = kto(own_BS[:, 0], kl_B, desirable_B, by_task(self.beta, task_B))
        weights = by_task(self.desirable_weight, task_B), by_task(self.undesirable_weight, task_B)
        return torch.where(desirable_B, *weights) * loss_B, h_B


def _ratios(logp_BS: Tensor, batch: Batch) -> Tensor:
    """log p of each completion minus that of the reference (B, S), sums in nats."""
    return logp_BS - batch["reference_logp_BS"].to(logp_BS.dtype)

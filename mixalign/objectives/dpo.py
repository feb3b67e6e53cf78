"""Direct preference optimisation and its kin: every loss of `mixalign.losses.preference`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from mixalign.checks import check_choice, check_flag
from mixalign.errors import MixalignError
from mixalign.losses.curvature import draw_slopes
from mixalign.losses.preference import LOSSES, PairSettings, PreferenceLoss
from mixalign.losses.supervised import mean_cross_entropy
from mixalign.models.forward import score_completions
from mixalign.objectives.base import Form, Scores, by_task, check_each, check_overrides, per_task, values
from mixalign.types import Batch

__all__ = ["DPO"]


@dataclass(frozen=True)
class DPO:
    """A preference loss of each pair, and if wanted the NLL of its chosen completion. A tuple has one value a task.

    Attributes:
        beta: strength of the pull to the reference policy; for simpo and orpo the scale of the preference.
        label_smoothing: assumed probability that the labels of a pair are swapped, below 0.5; how it is read depends
            on the loss.
        loss: a name in `LOSSES`.
        gamma: SimPO's target margin; other losses do not read it.
        nll_weight: of the chosen completion's NLL, nats a token, which is added to the loss (alpha of arXiv 2404.19733;
            once TRL's `rpo_alpha`). It is a mean over each completion's tokens; TRL's loss `sft` is one over a batch's.
        reference_free: takes the reference policy to find all completions equally likely: its scores are not read.
    """

    beta: float | tuple[float, ...] = 0.1
    label_smoothing: float | tuple[float, ...] = 0.0
    loss: str | tuple[str, ...] = "sigmoid"
    gamma: float | tuple[float, ...] = 0.5
    nll_weight: float | tuple[float, ...] = 0.0
    reference_free: bool | tuple[bool, ...] = False

    name: ClassVar[str] = "dpo"
    form: ClassVar[Form] = "preference"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "margin")

    def __post_init__(self) -> None:
        for name in values(self.loss):
            check_choice("objective.loss", name, LOSSES)
        check_each("objective.beta", self.beta, 0, open_low=True, why="0.1 is usual.")
        check_each("objective.label_smoothing", self.label_smoothing, 0, 0.5, open_high=True)
        check_each("objective.gamma", self.gamma, 0)
        check_each("objective.nll_weight", self.nll_weight, 0)
        for free in values(self.reference_free):
            check_flag("objective.reference_free", free)
        for name, smoothing in _together(self.loss, self.label_smoothing):
            if smoothing and not LOSSES[name].smooths:
                able = ", ".join(known for known, loss in LOSSES.items() if loss.smooths)
                raise MixalignError(
                    f"`objective.label_smoothing` is {smoothing}, but `objective.loss={name}` does not read it. Set it "
                    f"to 0 there, or take one of {able}."
                )

    @property
    def uses_reference(self) -> bool:
        return any(self._each_uses_reference)

    def for_tasks(self, overrides: Sequence[Mapping[str, Any]]) -> "DPO":
        check_overrides(self.name, overrides, [field.name for field in fields(self)])
        changed = {key for override in overrides for key in override}
        return replace(self, **{key: per_task(key, getattr(self, key), overrides) for key in changed})

    def scores(self, logp_BS: Tensor, batch: Batch) -> Scores:
        ratio_BS = self._ratios(logp_BS, batch)
        loss_B = self._preference(ratio_BS, batch)
        if any(values(self.nll_weight)):
            nll_B = mean_cross_entropy(logp_BS[:, 0], batch["num_tokens_BS"][:, 0])
            loss_B = loss_B + by_task(self.nll_weight, batch["task_B"]) * nll_B
        reward_BS = _where_per_token(self._each(_rewards_are_means), ratio_BS, batch)
        margin_B = (reward_BS[:, 0] - reward_BS[:, 1]).detach()
        return {
            "loss": loss_B.float(),
            "accuracy": (margin_B > 0).float(),
            "margin": (by_task(self.beta, batch["task_B"]) * margin_B).float(),
        }

    def __call__(self, model: nn.Module, batch: Batch) -> Scores:
        return self.scores(score_completions(model, batch).logp_BS, batch)

    def fisher_loss(self, model: nn.Module, batch: Batch, generator: Generator) -> Tensor:
        """Log ratios times random slopes, whose second moment is the loss's second derivative; see `draw_slopes`.

        For `sigmoid` that second moment is the one of the loss of a winner drawn with probability sigmoid(h). A loss
        that is not convex everywhere (apo_zero, apo_down, orpo) lends its convex part. The NLL, of `nll_weight` or of
        orpo, is linear in the log-probability of a completion and so without curvature here: what it has through the
        words' own softmax is left out, as the words of the batch and drawn ones would take a forward pass each.

        Raises:
            MixalignError: when no task's loss has curvature.
        """
        self.check_curved()
        ratio_BS = self._ratios(score_completions(model, batch).logp_BS, batch)
        slope_BS = draw_slopes(lambda x_BS: self._preference(x_BS, batch), ratio_BS.detach(), generator)
        return (slope_BS * ratio_BS).sum(1).float()

    def check_curved(self) -> None:
        """Refuses losses whose curvature cannot be measured.

        Raises:
            MixalignError: when no task's loss has any.
        """
        if not any(self._each(lambda loss: loss.is_curved)):
            raise MixalignError(
                f"`objective.loss={values(self.loss)[0]}` is made of straight lines, so it has no curvature to weigh "
                "tasks by. Take another loss, or influence=identity."
            )

    def _each(self, what: Callable[[PreferenceLoss], bool]) -> tuple[bool, ...]:
        """What is true of the loss of each task."""
        return tuple(what(LOSSES[name]) for name in values(self.loss))

    @property
    def _each_uses_reference(self) -> tuple[bool, ...]:
        return tuple(
            LOSSES[name].uses_reference and not free for name, free in _together(self.loss, self.reference_free)
        )

    def _ratios(self, logp_BS: Tensor, batch: Batch) -> Tensor:
        """log p of each completion minus that of the reference, where the task's loss reads it (B, S), sums in nats."""
        if not self.uses_reference:
            return logp_BS
        reference_BS = batch["reference_logp_BS"].to(logp_BS.dtype)
        if not all(self._each_uses_reference):
            wanted_B = by_task(self._each_uses_reference, batch["task_B"])
            reference_BS = torch.where(wanted_B[:, None], reference_BS, 0.0)
        return logp_BS - reference_BS

    def _preference(self, ratio_BS: Tensor, batch: Batch) -> Tensor:
        """The preference loss of each pair (B,) from its ratios, sums in nats (B, S)."""
        task_B = batch["task_B"]
        ratio_BS = _where_per_token(self._each(lambda loss: loss.per_token), ratio_BS, batch)
        at = PairSettings(*(by_task(x, task_B) for x in (self.beta, self.label_smoothing, self.gamma)))
        losses = list(dict.fromkeys(values(self.loss)))
        loss_B = LOSSES[losses[0]].of(ratio_BS, at)
        for name in losses[1:]:
            mine_B = by_task(tuple(name == other for other in values(self.loss)), task_B)
            loss_B = torch.where(mine_B, LOSSES[name].of(ratio_BS, at), loss_B)
        return loss_B


def _together(*settings: Any) -> list[tuple[Any, ...]]:
    """The values of some settings for each task; one entry where none of them has a value a task."""
    num_tasks = max(len(values(setting)) for setting in settings)
    return list(zip(*(s if isinstance(s, tuple) else (s,) * num_tasks for s in settings), strict=True))


def _rewards_are_means(loss: PreferenceLoss) -> bool:
    """Whether accuracy and margin are those of means over tokens; TRL logs sums wherever there is a reference."""
    return loss.per_token and not loss.uses_reference


def _where_per_token(is_mean: tuple[bool, ...], sum_BS: Tensor, batch: Batch) -> Tensor:
    """Means over tokens for the tasks that want them, sums for the others (B, S)."""
    if not any(is_mean):
        return sum_BS
    tokens_BS = batch["num_tokens_BS"]
    if not all(is_mean):
        tokens_BS = torch.where(by_task(is_mean, batch["task_B"])[:, None], tokens_BS, 1.0)
    return sum_BS / tokens_BS

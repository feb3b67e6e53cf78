"""Direct preference optimisation, with label smoothing as in conservative DPO."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from mixalign.errors import MixalignError
from mixalign.losses.preference import dpo
from mixalign.models.forward import score_completions
from mixalign.objectives.base import Form, Scores, check_overrides, per_task
from mixalign.types import Batch

__all__ = ["DPO"]


@dataclass(frozen=True)
class DPO:
    """The DPO loss of each pair (arXiv 2305.18290).

    Attributes:
        beta: strength of the pull to the reference policy; a tuple has one value a task.
        label_smoothing: assumed probability that the labels of a pair are swapped, below 0.5; likewise.
    """

    beta: float | tuple[float, ...] = 0.1
    label_smoothing: float | tuple[float, ...] = 0.0

    name: ClassVar[str] = "dpo"
    form: ClassVar[Form] = "preference"
    uses_reference: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "margin")

    def __post_init__(self) -> None:
        for beta in _values(self.beta):
            if not beta > 0:
                raise MixalignError(f"`objective.beta` is {beta}, but must be above 0 (0.1 is usual).")
        for smoothing in _values(self.label_smoothing):
            if not 0 <= smoothing < 0.5:
                raise MixalignError(f"`objective.label_smoothing` is {smoothing}, but must be in [0, 0.5).")

    def for_tasks(self, overrides: Sequence[Mapping[str, float]]) -> "DPO":
        check_overrides(self.name, overrides, ("beta", "label_smoothing"))
        return replace(
            self,
            beta=per_task("beta", self.beta, overrides),
            label_smoothing=per_task("label_smoothing", self.label_smoothing, overrides),
        )

    def scores(self, logp_BS: Tensor, batch: Batch) -> Scores:
        beta_B = _by_task(self.beta, batch["task_B"])
        log_ratio_B = _log_ratio(logp_BS, batch)
        return {
            "loss": dpo(log_ratio_B, beta_B, _by_task(self.label_smoothing, batch["task_B"])).float(),
            "accuracy": (log_ratio_B > 0).float(),
            "margin": (beta_B * log_ratio_B).detach().float(),
        }

    def __call__(self, model: nn.Module, batch: Batch) -> Scores:
        return self.scores(score_completions(model, batch).logp_BS, batch)

    def fisher_loss(self, model: nn.Module, batch: Batch, generator: Generator) -> Tensor:
        """The loss of a winner that is drawn: the chosen side with probability sigmoid(h), h = beta * log ratio.

        Its derivative by h is sigmoid(h) - 1 or sigmoid(h), of second moment sigmoid(h) sigmoid(-h): the second
        derivative of the DPO loss by h, for every label smoothing.
        """
        h_B = _by_task(self.beta, batch["task_B"]) * _log_ratio(score_completions(model, batch).logp_BS, batch)
        drawn_B = torch.rand(h_B.shape, generator=generator, device=h_B.device)
        return -F.logsigmoid(torch.where(drawn_B < h_B.detach().sigmoid(), h_B, -h_B)).float()


def _log_ratio(logp_BS: Tensor, batch: Batch) -> Tensor:
    """Margin of the policy over that of the reference (B,), nats."""
    ratio_BS = logp_BS - batch["reference_logp_BS"].to(logp_BS.dtype)
    return ratio_BS[:, 0] - ratio_BS[:, 1]


def _values(setting: float | tuple[float, ...]) -> tuple[float, ...]:
    return setting if isinstance(setting, tuple) else (setting,)


def _by_task(setting: float | tuple[float, ...], task_B: Tensor) -> Tensor:
    """The setting of each sample's task (B,)."""
    if not isinstance(setting, tuple) or len(set(setting)) == 1:
        return torch.full(task_B.shape, _values(setting)[0], dtype=torch.float64, device=task_B.device)
    return torch.tensor(setting, dtype=torch.float64, device=task_B.device)[task_B]

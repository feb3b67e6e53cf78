"""Supervised fine-tuning: cross-entropy on the completion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from mixalign.losses.supervised import mean_cross_entropy
from mixalign.models.forward import score_completions
from mixalign.objectives.base import Form, Scores, check_overrides
from mixalign.types import Batch

__all__ = ["SFT"]


@dataclass(frozen=True)
class SFT:
    """Mean cross-entropy over the supervised tokens of each row, nats a token. Accuracy is that of tokens."""

    name: ClassVar[str] = "sft"
    form: ClassVar[Form] = "supervised"
    uses_reference: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)

    def for_tasks(self, overrides: Sequence[Mapping[str, Any]]) -> "SFT":
        check_overrides(self.name, overrides, ())
        return self

    def scores(self, logp_BS: Tensor, batch: Batch) -> Scores:
        return {"loss": mean_cross_entropy(logp_BS[:, 0], batch["num_tokens_BS"][:, 0]).float()}

    def __call__(self, model: nn.Module, batch: Batch) -> Scores:
        counted = not torch.is_grad_enabled()  # the first choices cost another pass over the logits
        seen = score_completions(model, batch, count_correct=counted)
        out = self.scores(seen.logp_BS, batch)
        if seen.correct_BS is not None:
            out["accuracy"] = (seen.correct_BS[:, 0] / batch["num_tokens_BS"][:, 0]).float()
        return out

    def fisher_loss(self, model: nn.Module, batch: Batch, generator: Generator) -> Tensor:
        """Cross-entropy of drawn words, summed over the n tokens of a row and divided by sqrt(n).

        The gradient of a drawn word's cross-entropy has mean 0 and second moment `J_t' H_t J_t`, and the words of a row
        are drawn independently of each other (each behind the row's own text): the second moment of their sum over
        sqrt(n) is `(1/n) sum_t J_t' H_t J_t`, the curvature of the mean over tokens. The mean itself would make it n
        times smaller, and so long rows too flat.
        """
        logp_B = score_completions(model, batch, drawn_by=generator).logp_BS[:, 0]
        return -(logp_B / batch["num_tokens_BS"][:, 0].sqrt()).float()

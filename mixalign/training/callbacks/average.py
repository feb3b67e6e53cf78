"""The mean of the weights after each of the last steps."""

import logging
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from mixalign.training.average_share import first_step

__all__ = ["AverageWeights"]

log = logging.getLogger(__name__)


class AverageWeights(L.Callback):
    """Keeps the plain mean of the trained weights after each step of the last share of them.

    It is the suffix average of arXiv 1109.5647 (section 5), where the mean of all iterates of Polyak and Juditsky
    (1992) would remember the start. Of an adapter its two factors are averaged, not their product. The mean is kept
    in float32, of float64 weights in float64, and is part of checkpoints. One process may keep all of it: parameters
    that are spread over several are refused by `mixalign.together.trainer`.

    Attributes:
        begun: the first step in it; None: there is none yet.
        count: steps in it.

    Args:
        share: of the steps, the last ones.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.first, self.count = 0, 0
        self.begun: int | None = None
        self._mean: dict[str, Tensor] = {}
        self._step = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        first, self._step = first_step(self.share, trainer.max_steps), trainer.global_step
        if self.first != first:  # of a checkpoint of a training with fewer steps
            self.first, self.count, self.begun, self._mean = first, 0, None, {}
        if not self.count and first <= self._step < trainer.max_steps:
            log.warning(
                "The mean of the weights begins at step %d, not at step %d: the checkpoint is of step %d and has none.",
                self._step + 1, first, self._step,
            )  # fmt: skip
        self._mean = {name: mean.to(pl_module.device) for name, mean in self._mean.items()}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > self._step:  # the last micro-batch of an optimizer step
            self._step = trainer.global_step
            if self._step >= self.first:
                self._add(pl_module)

    @torch.no_grad()
    def _add(self, module: nn.Module) -> None:
        self.count += 1
        if self.begun is None:
            self.begun = self._step
        for name, weight in _trained(module):
            if self.count == 1:
                self._mean[name] = weight.to(_mean_dtype(weight), copy=True)
            else:
                mean = self._mean[name]
                mean.lerp_(weight.to(mean.dtype), 1 / self.count)

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchanges the module's weights and the mean; a second call undoes it, but for the mean's digits."""
        for name, weight in _trained(module):
            before = weight.clone()
            weight.copy_(self._mean[name])
            self._mean[name].copy_(before)

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "begun": self.begun, "count": self.count, "mean": dict(self._mean)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.first, self.begun, self.count = (state_dict[key] for key in ("first", "begun", "count"))
        self._mean = {name: mean.clone() for name, mean in state_dict["mean"].items()}


def _trained(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]


def _mean_dtype(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)

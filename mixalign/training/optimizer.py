"""AdamW and its settings."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mixalign.checks import check_choice, check_number, check_numbers
from mixalign.training.schedule import SCHEDULES, learning_rate_factor

__all__ = ["Optimizer"]


@dataclass(frozen=True)
class Optimizer:
    """AdamW and its schedule.

    Attributes:
        lr: peak learning rate.
        weight_decay, betas: AdamW's.
        schedule: `constant`, `linear` or `cosine`, the last two down to 0 at the last step.
        warmup_steps: optimizer steps of linear warm-up; below 1 it is a share of all steps.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them alone.
    """

    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "constant"
    warmup_steps: float = 10
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "warmup_steps", "max_grad_norm"):
            check_number(f"optimizer.{name}", getattr(self, name), 0)
        check_numbers("optimizer.betas", self.betas, 0, 1, length=2, open_high=True)
        check_choice("optimizer.schedule", self.schedule, SCHEDULES)

    def build(self, weights: Iterable[nn.Parameter], steps: int) -> tuple[torch.optim.AdamW, Any]:
        """AdamW over the weights that are trained, and its schedule.

        Args:
            steps: optimizer steps of the training.
        """
        trained = [weight for weight in weights if weight.requires_grad]
        betas = (self.betas[0], self.betas[1])
        adamw = torch.optim.AdamW(trained, self.lr, betas=betas, weight_decay=self.weight_decay, fused=True)
        factor = learning_rate_factor(self.schedule, self.warmup_steps, steps)
        return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, factor)

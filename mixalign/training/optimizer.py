"""AdamW and its settings."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from mixalign.checks import check_choice, check_number, check_numbers
from mixalign.errors import MixalignError
from mixalign.training.schedule import SCHEDULES, learning_rate_factor, steps_of

__all__ = ["Optimizer", "plain_settings"]

DECAY = 0.1  # share of the steps in which `wsd` falls: a tenth is about enough (arXiv 2404.06395, section 4)


@dataclass(frozen=True)
class Optimizer:
    """AdamW and its schedule.

    Attributes:
        lr: peak learning rate.
        weight_decay, betas, eps: AdamW's.
        schedule: `constant`; `linear` or `cosine`, from the warm-up down to `min_lr` at the last step; or `wsd`, which
            stays at the peak until its decay.
        warmup_steps: optimizer steps of linear warm-up; below 1 it is a share of all steps.
        decay_steps: optimizer steps of the decay of `wsd`, the last ones; below 1 a share of all steps; None: a tenth.
        min_lr: learning rate that the schedule falls to.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them alone.
    """

    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: str = "constant"
    warmup_steps: float = 10
    decay_steps: float | None = None
    min_lr: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "eps", "warmup_steps", "min_lr", "max_grad_norm"):
            check_number(f"optimizer.{name}", getattr(self, name), 0, open_low=name == "eps")
        check_number("optimizer.decay_steps", self.decay_steps, 0, open_low=True, null=True)
        check_numbers("optimizer.betas", self.betas, 0, 1, length=2, open_high=True)
        check_choice("optimizer.schedule", self.schedule, SCHEDULES)
        if self.min_lr and self.schedule == "constant":
            raise MixalignError(
                f"`optimizer.min_lr` is {self.min_lr}, but `optimizer.schedule=constant` never falls. Set the schedule "
                "to linear, cosine or wsd, or leave min_lr out."
            )
        if self.decay_steps is not None and self.schedule != "wsd":
            raise MixalignError(
                f"`optimizer.decay_steps` is {self.decay_steps}, but only `optimizer.schedule=wsd` has a decay of its "
                f"own, and it is {self.schedule}. Set the schedule to wsd, or leave decay_steps out."
            )

    def check_rate(self, key: str, lr: float) -> None:
        """Refuses a peak learning rate below `min_lr`: such a schedule would rise.

        Args:
            key: of the rate, for the message.

        Raises:
            MixalignError: when it is below.
        """
        if lr < self.min_lr:
            raise MixalignError(
                f"`optimizer.min_lr` is {self.min_lr}, which is above `{key}`, {lr}: the learning rate would rise. "
                "Lower min_lr."
            )

    def warm_steps(self, steps: int) -> float:
        """Optimizer steps of the warm-up of a training of so many steps."""
        return steps_of(self.warmup_steps, steps)

    def build(self, weights: Iterable[nn.Parameter], steps: int) -> tuple[torch.optim.AdamW, Any]:
        """AdamW over the weights that are trained, and its schedule.

        Args:
            steps: optimizer steps of the training.
        """
        trained = [weight for weight in weights if weight.requires_grad]
        adamw = torch.optim.AdamW(trained, self.lr, fused=True, **self._adamw)
        return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, self.factor(steps))

    def factor(self, steps: int) -> Callable[[int], float]:
        """The factor on the peak learning rate at each step of a training of so many."""
        floor = self.min_lr / self.lr if self.min_lr else 0.0
        decay = DECAY if self.decay_steps is None else self.decay_steps
        return learning_rate_factor(self.schedule, self.warmup_steps, steps, floor=floor, decay_steps=decay)

    def apply(self, optimizer: Any, schedule: Any) -> None:
        """Puts these settings in the place of those that a checkpoint has brought back.

        Args:
            optimizer: as `build` made it, with the state of a training that is gone on with.
            schedule: the same.
        """
        schedule.base_lrs = [self.lr for _ in schedule.base_lrs]
        rates = [factor(schedule.last_epoch) * self.lr for factor in schedule.lr_lambdas]
        schedule._last_lr = rates
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group |= {"lr": rate, "initial_lr": self.lr} | self._adamw

    @property
    def _adamw(self) -> dict[str, Any]:
        """AdamW's arguments beside its learning rate."""
        return {"betas": (self.betas[0], self.betas[1]), "eps": self.eps, "weight_decay": self.weight_decay}


def plain_settings(settings: Optimizer) -> dict[str, Any]:
    """As a checkpoint holds them."""
    return asdict(settings) | {"betas": list(settings.betas)}

"""Learning-rate schedules."""

from collections.abc import Callable
from math import cos, pi

from mixalign.errors import MixalignError, did_you_mean

__all__ = ["learning_rate_factor"]

SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1 + cos(pi * done)),
}


def learning_rate_factor(schedule: str, warmup_steps: float, steps: int) -> Callable[[int], float]:
    """The factor on the peak learning rate at each optimizer step.

    Args:
        warmup_steps: linear warm-up; below 1 it is a share of `steps`.

    Raises:
        MixalignError: for an unknown schedule or a negative warm-up.
    """
    if schedule not in tuple(SHAPES):  # it may be a list
        raise MixalignError(f"`optimizer.schedule` is {schedule!r}. {did_you_mean(str(schedule), SHAPES)}")
    if warmup_steps < 0:
        raise MixalignError(f"`optimizer.warmup_steps` is {warmup_steps}, but must be at least 0.")
    warm = warmup_steps if warmup_steps >= 1 else warmup_steps * steps

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm if warm >= 1 else 1.0
        return SHAPES[schedule](min(1.0, (step - warm) / max(1.0, steps - warm)))

    return factor

"""Learning-rate schedules."""

from collections.abc import Callable
from math import cos, pi

__all__ = ["SCHEDULES", "learning_rate_factor"]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1 + cos(pi * done)),
}


def learning_rate_factor(schedule: str, warmup_steps: float, steps: int) -> Callable[[int], float]:
    """The factor on the peak learning rate at each optimizer step.

    Args:
        schedule: a key of SCHEDULES.
        warmup_steps: linear warm-up; below 1 it is a share of `steps`.
    """
    warm = warmup_steps if warmup_steps >= 1 else warmup_steps * steps

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm if warm >= 1 else 1.0
        return SCHEDULES[schedule](min(1.0, (step - warm) / max(1.0, steps - warm)))

    return factor

"""Learning-rate schedules."""

from collections.abc import Callable
from math import cos, pi

__all__ = ["SCHEDULES", "learning_rate_factor", "steps_of"]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1 + cos(pi * done)),
    "wsd": lambda done: 0.5 * (1 + cos(pi * done)),  # of its decay, which comes last
}
"""The factor at each share of the steps behind the warm-up; of `wsd` (warm-up, stable, decay: arXiv 2404.06395) at each
share of its decay, in the shape of transformers' `warmup_stable_decay`."""


def steps_of(setting: float, steps: int) -> float:
    """Optimizer steps that a setting means; below 1 it is a share of `steps`."""
    return setting if setting >= 1 else setting * steps


def learning_rate_factor(
    schedule: str, warmup_steps: float, steps: int, *, floor: float = 0.0, decay_steps: float = 0.1
) -> Callable[[int], float]:
    """The factor on the peak learning rate at each optimizer step.

    Args:
        schedule: a key of SCHEDULES.
        warmup_steps: linear warm-up; below 1 it is a share of `steps`.
        floor: what the factor falls to, in place of 0.
        decay_steps: the last steps, in which `wsd` falls; below 1 a share of `steps`.
    """
    warm = steps_of(warmup_steps, steps)
    start = max(warm, steps - steps_of(decay_steps, steps)) if schedule == "wsd" else warm

    def factor(step: int) -> float:
        if step < warm:
            return min(1.0, (step + 1) / warm)  # a share of the steps need not be whole
        done = min(1.0, max(0.0, step - start) / max(1.0, steps - start))
        return floor + (1 - floor) * SCHEDULES[schedule](done)

    return factor

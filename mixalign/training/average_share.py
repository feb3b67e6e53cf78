"""Of which steps the weights are averaged; without Lightning, as configurations and plans ask for it."""

from typing import Any

__all__ = ["CHOSEN", "SHARE", "first_step", "share_of", "spreading"]

SHARE = 0.3  # of the steps, the last ones, where nothing else is said
CHOSEN = ("best", "best_gap")  # values of `export` that choose by validations
SPREADING = ("fullysharded", "fsdp", "modelparallel", "model_parallel", "deepspeed")  # in names of strategies


def share_of(export: str, average_last: float | None) -> float | None:
    """Share of the steps whose weights are averaged; None: none are.

    Args:
        export, average_last: the run's settings of these names.
    """
    return SHARE if average_last is None and export == "averaged" else average_last


def spreading(strategy: Any) -> str | None:
    """What in `trainer.strategy` spreads the weights over processes, so that none has their mean; None: nothing."""
    return next((kind for kind in SPREADING if kind in str(strategy).lower()), None)


def first_step(share: float, steps: int) -> int:
    """The first step, counted from 1, that is in the mean of a training of so many: the last one always is."""
    return steps - max(1, round(share * steps)) + 1

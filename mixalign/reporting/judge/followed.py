"""What a rule read of the training while it moved its mixture, in words."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mixalign.reporting.judge.statistics import Score
from mixalign.reporting.read.history import MixHistory
from mixalign.reporting.read.runs import Run

__all__ = ["followed"]

READS = {frozenset({"excess_K", "excess_iw_K"}): "excess", frozenset({"loss_K", "loss_iw_K"}): "loss"}
PART = 4  # of the steps, the first and the last such part are shown


def followed(runs: Sequence[Run], order: Sequence[int]) -> list[str]:
    """What the rule of these runs read, then of each task its mean over the first and the last quarter of the steps.

    Empty where it read something else than the excess or the loss of the training rows, which `mix.jsonl` has.

    Args:
        runs: of one label, with a history each, of the same tasks.
        order: numbers of the tasks, as they are to be named.
    """
    reads = {str(name) for name in runs[0].mixture.get("reads") or ()}
    quantity = next((word for names, word in READS.items() if reads and reads <= names), "")
    histories = [run.mix_history for run in runs if run.mix_history is not None]
    ends = [_ends(history, quantity) for history in histories] if quantity else []
    shown = []
    for k in order if ends else ():
        first, last = (Score.of([float(end_2K[place, k]) for end_2K in ends]).mean for place in (0, 1))
        if not math.isnan(first - last):
            shown.append(f"{histories[0].tasks[k]} {first:.3f} to {last:.3f}")
    return [quantity, *shown] if shown else []


def _ends(history: MixHistory, quantity: str) -> npt.NDArray[np.float64]:
    """Means over the samples of the first and of the last part of the steps (2, K); NaN for a task without any."""
    value_NK = history.excess_NK if quantity == "excess" else history.task_loss_NK
    count_NK = np.where(np.isnan(value_NK), 0.0, np.nan_to_num(history.count_NK))
    part = max(1, len(value_NK) // PART)
    sums_2K, counts_2K = (
        np.stack([array_NK[:part].sum(0), array_NK[-part:].sum(0)])
        for array_NK in (np.nan_to_num(value_NK) * count_NK, count_NK)
    )
    return np.where(counts_2K > 0, sums_2K / np.maximum(counts_2K, 1.0), np.nan)

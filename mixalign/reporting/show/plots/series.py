"""Curves of runs on common steps: shares of tasks, excess by task, means over seeds.

Suffixes: `K` tasks, `N` recorded updates, `R` runs, `S` steps of a common grid.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from mixalign.errors import MixalignError
from mixalign.reporting.read.history import Array, Series
from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.plots.tasks import OTHERS

__all__ = ["Curves", "common_grid", "known_part", "mean_over_seeds", "shares", "smooth", "task_series", "worst_series"]

GRID_STEPS = 120
Curves = dict[str, Series]  # by task


def shares(group: Sequence[Run], tasks: Sequence[str]) -> tuple[Array, Array]:
    """Steps (S,) and the mean share of the shown tasks over seeds, (K, S), up to the shortest run's end."""
    histories = [run.mix_history for run in group if run.mix_history is not None]
    grid_S = common_grid([history.step_N for history in histories])
    share_KS = np.zeros((len(tasks), len(grid_S)))
    for history in histories:
        for task, alpha_N in zip(history.tasks, history.alpha_NK.T, strict=True):
            row = tasks.index(task if task in tasks else OTHERS)
            share_KS[row] += np.interp(grid_S, history.step_N, alpha_N) / len(histories)
    return grid_S, share_KS


def common_grid(steps: Sequence[Array]) -> Array:
    """Even steps (S,) from the last start to the first end; one where these are the same."""
    start, end = max(step.min() for step in steps), min(step.max() for step in steps)
    if end <= start:
        return np.array([start], float)
    points = min(GRID_STEPS, max(len(step) for step in steps))
    return np.linspace(start, end, max(points, 2))


def task_series(runs: Sequence[Run], tasks: Sequence[str]) -> tuple[str, Callable[[Run], Curves]]:
    """The best source of per-task curves that some run has: its title, and the reader of one run's curves."""
    sources: list[tuple[str, Callable[[Run], Curves]]] = [
        ("Validation excess", lambda run: _validation(run, "eval_excess/", tasks)),
        ("Training excess, smoothed,", lambda run: _training(run, tasks)),
        ("Validation loss", lambda run: _validation(run, "eval_loss/", tasks)),
    ]
    for title, source in sources:
        if any(source(run) for run in runs):
            return title, source
    raise MixalignError("There is nothing to draw: no run has validation history or training excess.")


def _validation(run: Run, prefix: str, tasks: Sequence[str]) -> Curves:
    curves: Curves = {}
    for name, (steps, values) in run.validation.items():
        if name.startswith(prefix) and np.isfinite(values).any():
            _add(curves, name.removeprefix(prefix), tasks, (steps, values))
    return curves


def _training(run: Run, tasks: Sequence[str]) -> Curves:
    curves: Curves = {}
    history = run.mix_history
    if history is not None:
        for task, excess_N in zip(history.tasks, history.excess_NK.T, strict=True):
            if np.isfinite(excess_N).any():
                _add(curves, task, tasks, (history.step_N, smooth(excess_N)))
    return curves


def _add(curves: Curves, task: str, tasks: Sequence[str], series: Series) -> None:
    """Put a task's curve in place; the curves of "others" become their maximum."""
    if task in tasks:
        curves[task] = series
    elif OTHERS in tasks:
        old = curves.get(OTHERS, series)
        curves[OTHERS] = (series[0], np.fmax(np.interp(series[0], *old), series[1]))


def smooth(values_N: Array) -> Array:
    """Running mean over a tenth of the run that ignores gaps; NaN where the whole window is empty."""
    width = max(1, len(values_N) // 10)
    known_N = np.isfinite(values_N)
    window = np.ones(2 * width + 1)
    total, count = (
        np.convolve(part, window)[width : width + len(values_N)]
        for part in (np.where(known_N, values_N, 0.0), known_N.astype(float))
    )
    mean_N: Array = np.divide(total, count, out=np.full(len(values_N), np.nan), where=count > 0)
    return mean_N


def worst_series(curves: Curves) -> Series:
    """The largest value over the tasks of one run, on a grid that all of them cover."""
    steps_S = common_grid([series[0] for series in curves.values()])
    known = [known_part(series) for series in curves.values()]
    return steps_S, np.max([np.interp(steps_S, *series) for series in known], axis=0)


def known_part(series: Series) -> Series:
    """Without the steps whose value is NaN."""
    steps, values = series
    return steps[np.isfinite(values)], values[np.isfinite(values)]


def mean_over_seeds(series: Sequence[Series]) -> tuple[Array, Array, Array]:
    """Steps, mean, standard error, each (S,), on a grid that all seeds cover; one seed has error 0."""
    known = [known_part(one) for one in series]
    grid_S = common_grid([steps for steps, _ in known])
    values_RS = np.array([np.interp(grid_S, steps, values) for steps, values in known])
    if len(known) == 1:
        return *known[0], np.zeros(len(known[0][0]))
    return grid_S, values_RS.mean(0), values_RS.std(0, ddof=1) / math.sqrt(len(known))

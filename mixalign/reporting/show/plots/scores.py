"""Final scores: the worst task of every label, and all tasks by labels."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mixalign.reporting.judge.comparison import TITLES
from mixalign.reporting.judge.statistics import Score
from mixalign.reporting.read.files import number
from mixalign.reporting.read.history import Array
from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.plots.style import (
    INK,
    METHOD_COLOURS,
    MUTED,
    by_label,
    inner,
    new_figure,
    put_heading,
    styled,
    wrapped,
)
from mixalign.reporting.show.plots.tasks import OTHERS, shown_tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["task_bars", "worst_excess"]

FRAME = "#D55E00"
MAX_ACROSS = 8  # labels beside each other in a table


@styled
def worst_excess(runs: Sequence[Run]) -> "Figure":
    """One line a label, best on top: a point a seed, and the mean with its standard error.

    Raises:
        MixalignError: No run has final scores.
    """
    metric = _ranked_by(runs)
    groups = by_label([run for run in runs if not math.isnan(run.score(metric))], "final scores")
    ranked = sorted(groups.items(), key=lambda item: Score.of([r.score(metric) for r in item[1]]).mean)
    figure = new_figure(7.6, 1.1 + 0.44 * len(ranked))
    ax = figure.subplots()
    edge = 1.05 * inner([max(run.score(metric) for run in group) for _, group in ranked])
    for row, (_, group) in enumerate(ranked):
        _seeds(ax, row, [run.score(metric) for run in group], METHOD_COLOURS[group[0].method], edge)
    ax.set_yticks(range(len(ranked)), [wrapped(label, 40) for label, _ in ranked], color=INK)
    ax.set_ylim(len(ranked) - 0.5, -0.5)
    ax.set_xlim(0.0, 1.05 * edge)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.set_xlabel("nats, lower is better")
    put_heading(figure, f"{TITLES[metric].capitalize()} over tasks")
    merges = ", orange: merge" if any(run.method == "merge" for run in runs) else ""
    key = "point: one seed, bar: mean \u00b1 standard error, grey: static mixture"
    ax.set_title(wrapped(key + merges, 70), weight="normal", color=MUTED, fontsize=9.5)
    return figure


@styled
def task_bars(runs: Sequence[Run]) -> "Figure":
    """A table of tasks by labels, shaded by the final excess in nats; each label's worst task is framed.

    With more than eight labels these go down and the tasks across.

    Raises:
        MixalignError: No run has final scores.
    """
    key = _ranked_by(runs).removeprefix("worst_")
    groups = by_label([run for run in runs if run.eval.get("tasks")], "final scores")
    shown = shown_tasks(runs)
    table = np.array([[_final(group, task, key, shown) for group in groups.values()] for task in shown])
    across, down = list(groups), shown
    if turned := len(across) > MAX_ACROSS:
        table, across, down = table.T, shown, list(groups)
    figure = new_figure(max(5.2, 2.2 + 1.05 * len(across)), 1.6 + 0.33 * len(down))
    ax = figure.subplots()
    top = 1.2 * inner([value for value in table.max(0 if not turned else 1) if math.isfinite(value)])
    ax.imshow(np.ma.masked_invalid(table), cmap="Blues", vmin=0.0, vmax=top * 1.15, aspect="auto")
    _annotate(ax, table, top, turned)
    ax.set_xticks(range(len(across)), [wrapped(name) for name in across], color=INK)
    ax.set_yticks(range(len(down)), down, color=INK)
    ax.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    put_heading(figure, f"Final {key} by task (nats), worst task framed")
    return figure


def _ranked_by(runs: Sequence[Run]) -> str:
    return "worst_loss" if all(math.isnan(run.score("worst_excess")) for run in runs) else "worst_excess"


def _seeds(ax: "Axes", row: int, values: Sequence[float], colour: str, edge: float) -> None:
    """A label's seeds and their mean; beyond the edge an arrow with the mean."""
    score = Score.of(values)
    if score.mean > edge:
        ax.plot(edge, row, ">", ms=7, color=colour)
        ax.annotate(f"{score.mean:.3f}", (edge, row), (-8, 0), textcoords="offset points", ha="right", va="center")
        return
    error = score.error if score.n > 1 else None
    ax.errorbar(score.mean, row, xerr=error, fmt="|", ms=15, mew=2.2, color=colour, elinewidth=2.2)
    ax.plot(values, [row] * len(values), "o", ms=5, color=colour, mec="white", mew=0.7, zorder=3)
    ax.annotate(f"{score.mean:.3f}", (score.mean, row), (0, 9), textcoords="offset points", ha="center", fontsize=8.5)


def _final(group: Sequence[Run], task: str, key: str, shown: Sequence[str]) -> float:
    """Mean over seeds of a task's final number; "others" gives the largest of the tasks not shown."""
    rows = [run.eval["tasks"] for run in group]
    names = [task] if task != OTHERS else sorted({name for row in rows for name in row} - set(shown))
    means = [Score.of([number((row.get(name) or {}).get(key)) for row in rows]).mean for name in names]
    return max((mean for mean in means if not math.isnan(mean)), default=math.nan)


def _annotate(ax: "Axes", table: Array, top: float, turned: bool) -> None:
    """The numbers, and a frame around the largest of each label."""
    from matplotlib.patches import Rectangle

    for (row, column), value in np.ndenumerate(table):
        text = "-" if math.isnan(value) else f"{value:.3f}"
        colour = "white" if value > 0.7 * top else INK
        ax.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
    for index, values in enumerate(table if turned else table.T):
        if np.isfinite(values).any():
            place = int(np.nanargmax(values))
            column, row = (place, index) if turned else (index, place)
            ax.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, ec=FRAME, lw=2))

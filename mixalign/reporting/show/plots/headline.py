"""The whole story in one picture: where an adaptive mixer put its weight, and what became of the worst task."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixalign.errors import MixalignError
from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.plots.mixture import share_axis, stack
from mixalign.reporting.show.plots.series import Curves, mean_over_seeds, shares, task_series, worst_series
from mixalign.reporting.show.plots.style import ADAPTIVE, STATIC, by_label, new_figure, spread, styled, wrapped
from mixalign.reporting.show.plots.tasks import colour_of, shown_tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["headline"]


@styled
def headline(run_a: Run | Sequence[Run], run_b: Run | Sequence[Run]) -> "Figure":
    """Left the mixture of `run_a` over the steps, right the worst task's excess of both.

    Args:
        run_a: The adaptive run, or its seeds. `run_b`: what it is compared with, one run or its seeds.

    Raises:
        MixalignError: `run_a` has no mix.jsonl, or one of them has no validation history.
    """
    left, right = ([run] if isinstance(run, Run) else list(run) for run in (run_a, run_b))
    tasks = shown_tasks([*left, *right])
    by_label([run for run in left if run.mix_history is not None], "mix.jsonl")
    title, series = task_series([*left, *right], tasks)
    figure = new_figure(10.4, 3.9)
    area, lines = figure.subplots(1, 2, width_ratios=[1.0, 1.0])
    stack(area, left, tasks)
    share_axis([area])
    _name_bands(area, left, tasks)
    area.set_title(wrapped(f"Share of each task under {left[0].label}", 50))
    area.set_xlabel("step")
    pairs = ((right, STATIC), (left, ADAPTIVE))
    ends = [_worst_line(lines, [series(run) for run in group], group[0].label, colour) for group, colour in pairs]
    lines.set_title(f"{title.rstrip(',')}, worst task (nats)")
    lines.set_xlabel("step")
    if lines.dataLim.width < 1:  # one validation, which would be spread over the whole width
        lines.set_xlim(0.0, float(lines.dataLim.x0))
    lines.set_ylim(0.0, 1.08 * (lines.dataLim.y1 or 1.0))
    lines.grid(axis="y")
    _name_ends(lines, [(group[0].label, end, colour) for (group, colour), end in zip(pairs, ends, strict=True)])
    return figure


def _name_bands(ax: "Axes", group: Sequence[Run], tasks: Sequence[str]) -> None:
    """Names to the right of the bands, pushed apart where the bands are thin."""
    last_K = shares(group, tasks)[1][:, -1]
    middle_K = np.cumsum(last_K) - last_K / 2
    gap = min(0.065, 1.0 / max(len(tasks), 1))
    for task, place, share in zip(tasks, spread(middle_K, gap), last_K, strict=True):
        index = tasks.index(task)
        colour = colour_of(index, tasks)
        ax.plot(1.02, place, marker="s", ms=6, color=colour, transform=ax.transAxes, clip_on=False)
        text = f"{task} {share:.0%}".replace("%", " %")
        ax.text(1.045, place, text, transform=ax.transAxes, va="center", fontsize=9 if gap > 0.06 else 7)


def _worst_line(ax: "Axes", curves: Sequence[Curves], label: str, colour: str) -> float:
    """The maximum over tasks, mean over seeds, in a band of one standard error; returns its last value."""
    worst = [worst_series(run) for run in curves if run]
    if not worst:
        raise MixalignError(f"`{label}` has no validation history to draw; run it with a validation interval.")
    steps, mean, error = mean_over_seeds(worst)
    ax.fill_between(steps, mean - error, mean + error, color=colour, alpha=0.2, lw=0)
    ax.plot(steps, mean, color=colour, lw=2.2)
    ax.margins(x=0)
    ax.plot(steps[-1], mean[-1], "o", ms=5, color=colour, clip_on=False)
    return float(mean[-1])


def _name_ends(ax: "Axes", ends: Sequence[tuple[str, float, str]]) -> None:
    """Names and last values to the right of the curves, pushed apart where they would overlap."""
    top = ax.get_ylim()[1]
    ranked = sorted(ends, key=lambda end: end[1])
    places = spread(np.array([value / top for _, value, _ in ranked]), 0.14)
    for (label, value, colour), place in zip(ranked, places, strict=True):
        style: dict[str, Any] = {"color": colour, "weight": "bold", "va": "center", "linespacing": 1.0}
        ax.text(1.03, place, f"{wrapped(label)}\n{value:.3f}", transform=ax.transAxes, **style)

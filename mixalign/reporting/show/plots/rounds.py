"""Runs that were made in rounds: the target loss after each, and every task's volume.

Suffix: `D` rounds, counted from 0. Losses in nats, volumes in rows.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixalign.reporting.judge.rounds import LOSS, Groups, History, best_label, histories, over_seeds
from mixalign.reporting.read.history import Array
from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.plots import style
from mixalign.reporting.show.plots.tasks import OTHERS, colour_of, is_second, shown_tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["round_paths"]


@style.styled
def round_paths(runs: Sequence[Run]) -> "Figure":
    """Left the mean target loss after every round, one line a label; right every task's volume under the best.

    Args:
        runs: All that the page shows, some of them with rounds: they fix the colours of the tasks. Of more than
            twenty tasks the 19 with the largest share are drawn, and the title says so.
    """
    groups, tasks = histories(runs), shown_tasks(runs)
    best = best_label(groups)
    figure = style.new_figure(10.4, max(4.2, 0.2 * len(tasks) + 1.6))
    left, right = figure.subplots(1, 2)
    _losses(left, groups)
    left.set_title("Target loss (nats)")
    columns = max(1, 130 // (max(map(len, groups)) + 8))  # the figure is some 130 letters wide
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=columns, fontsize=9)
    _volumes(right, groups[best], tasks)
    which = "the 19 largest tasks" if OTHERS in tasks else "each task"
    right.set_title(f"Volume of {which}, round 0 = 1\n{style.wrapped(best, 50)}")
    for ax in (left, right):
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        ax.set_xlabel("round")
        ax.grid(axis="y")
    return figure


def _losses(ax: "Axes", groups: Groups) -> None:
    """A line a label, a little aside of the others, in colours that are no task's."""
    import matplotlib

    colours = (
        matplotlib.colormaps["viridis"](np.linspace(0.0, 0.75, len(groups))) if len(groups) > 1 else [style.ADAPTIVE]
    )
    aside = min(0.05, 0.3 / len(groups)) * (np.arange(len(groups)) - (len(groups) - 1) / 2)
    for (label, group), colour, shift in zip(groups.items(), colours, aside, strict=True):
        scores, kept = over_seeds(group, LOSS), [history.kept for history in group]
        mean_D, error_D = np.array([(score.mean, score.error) for score in scores]).T
        at_D = np.arange(len(scores)) + shift
        ax.errorbar(at_D, mean_D, np.nan_to_num(error_D), fmt="none", ecolor=colour, elinewidth=1.2)
        _line(ax, at_D, mean_D, [score.n == len(group) for score in scores], color=colour, label=label)
        size_D = [60 + 120 * kept.count(d) / len(kept) if d in kept else 0 for d in range(len(scores))]
        ax.scatter(at_D, mean_D, size_D, facecolors="none", edgecolors=[colour], linewidths=1.4)
    ax.margins(x=0.08, y=0.1)


def _line(ax: "Axes", at_D: Array, value_D: Array, whole_D: Sequence[bool], **look: Any) -> None:
    """Points joined by a line; hollow where some of the seeds have none."""
    ax.plot(at_D, value_D, lw=1.7, **look)
    fill = [look["color"] if whole else "white" for whole in whole_D]
    ax.scatter(at_D, value_D, 18, color=fill, edgecolors=[look["color"]], zorder=3)


def _volumes(ax: "Axes", group: Sequence[History], tasks: Sequence[str]) -> None:
    """A line a task, named at its end; seeds of one setting begin with the same volumes."""
    ax.axhline(1.0, color=style.MUTED, lw=0.8, ls=":")
    ends: list[tuple[float, float, int]] = []
    for index, task in enumerate(tasks):
        scores = over_seeds(group, "volumes", task)
        growth_D = np.array([score.mean / (scores[0].mean or math.nan) for score in scores])
        known_D = np.flatnonzero(np.isfinite(growth_D))
        if known_D.size:
            look = {"color": colour_of(index, tasks), "ls": "--" if is_second(index, tasks) else "-"}
            whole_D = [score.n == len(group) for score in scores]
            _line(ax, np.arange(float(len(scores))), growth_D, whole_D, **look)
            ends.append((growth_D[known_D[-1]], float(known_D[-1]), index))
    _name_ends(ax, sorted(ends), tasks)


def _name_ends(ax: "Axes", ends: Sequence[tuple[float, float, int]], tasks: Sequence[str]) -> None:
    """Names and last values to the right of ascending ends (value, round, task), apart where they would overlap."""
    low, high = ax.get_ylim()
    gap = min(0.065, 1.0 / max(len(ends), 1))
    places = style.spread(np.array([(value - low) / (high - low) for value, _, _ in ends]), gap)
    for (value, at, index), place in zip(ends, places, strict=True):
        line = {"arrowstyle": "-", "color": colour_of(index, tasks), "lw": 0.8, "shrinkA": 1, "shrinkB": 3}
        line |= {"relpos": (0.0, 0.5)}  # to the left end of the name
        look: dict[str, Any] = {"textcoords": "axes fraction", "va": "center", "arrowprops": line}
        text = f"{tasks[index]} \u00d7{value:.2f}"
        ax.annotate(text, (at, value), (1.1, place), fontsize=9 if gap > 0.06 else 8, **look)

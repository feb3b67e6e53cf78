"""Which tasks are drawn, and in which colour: the same one in all figures of a page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.plots.style import GREY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["OTHERS", "PALETTE", "colour_of", "is_second", "legend_keys", "put_legend", "shown_tasks"]

MAX_TASKS = 20  # more cannot be told apart: the top 19 are shown, the rest is "others"
OTHERS = "others"
# Okabe and Ito's colours, dark grey for their pale yellow, then three of Paul Tol's.
# The second ten tasks repeat them, hatched or dashed.
PALETTE = [
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#555555",
    "#332288",
    "#882255",
    "#999933",
]


def shown_tasks(runs: Sequence[Run]) -> list[str]:
    """Task names in the mixture's order; beyond twenty the 19 with the largest weight, and "others"."""
    names = list(dict.fromkeys(task for run in runs for task in run.tasks))
    if len(names) <= MAX_TASKS:
        return names
    weight = dict.fromkeys(names, 0.0)
    for run in runs:
        if run.mix_history is not None:
            for task, share in zip(run.tasks, run.mix_history.alpha_NK.mean(0), strict=True):
                weight[task] = max(weight[task], float(share))
    top = sorted(names, key=lambda name: -weight[name])[: MAX_TASKS - 1]
    return [*(name for name in names if name in top), OTHERS]


def colour_of(index: int, tasks: Sequence[str]) -> str:
    """The colour of the task at this place in the mixture."""
    return GREY if tasks[index] == OTHERS else PALETTE[index % len(PALETTE)]


def is_second(index: int, tasks: Sequence[str]) -> bool:
    """Whether the task repeats a colour, and so is hatched or dashed."""
    return index >= len(PALETTE) and tasks[index] != OTHERS


def legend_keys(tasks: Sequence[str], kind: str) -> list[Any]:
    """Legend entries in the colours, hatches and dashes of the tasks."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    second = [is_second(index, tasks) for index in range(len(tasks))]
    if kind == "line":
        return [
            Line2D([], [], color=colour_of(k, tasks), lw=2, ls="--" if second[k] else "-", label=task)
            for k, task in enumerate(tasks)
        ]
    return [
        Patch(facecolor=colour_of(k, tasks), edgecolor="white", hatch="////" if second[k] else None, label=task)
        for k, task in enumerate(tasks)
    ]


def put_legend(figure: "Figure", keys: list[Any]) -> None:
    """The legend of the tasks, to the right of all panels."""
    figure.legend(handles=keys, loc="outside right center", fontsize=9, handlelength=1.4, labelspacing=0.35)

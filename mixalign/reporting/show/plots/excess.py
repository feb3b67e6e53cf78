"""The path of every task's excess: one panel a label."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.plots.series import Curves, mean_over_seeds, task_series
from mixalign.reporting.show.plots.style import by_label, new_panels, put_heading, styled, titled
from mixalign.reporting.show.plots.tasks import colour_of, is_second, legend_keys, put_legend, shown_tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["excess_paths"]


@styled
def excess_paths(runs: Sequence[Run]) -> "Figure":
    """One panel a label: every task's excess over the steps, mean over seeds, the final worst task named.

    Takes the validation excess; without it the smoothed training excess; without that the validation loss.

    Raises:
        MixalignError: No run has any of them.
    """
    tasks = shown_tasks(runs)
    title, series = task_series(runs, tasks)
    groups = by_label([run for run in runs if series(run)], "validation history")
    figure, panels = new_panels(len(groups), len(tasks))
    for ax, (label, group) in zip(panels, groups.items(), strict=True):
        _lines(ax, [series(run) for run in group], tasks)
        ax.set_title(titled(label, group))
        ax.grid(axis="y")
    top = max(ax.dataLim.y1 for ax in panels) or 1.0
    for ax in panels:
        ax.set_ylim(0.0, 1.2 * top)  # the fifth above the curves is for the name of the worst task
    put_legend(figure, legend_keys(tasks, "line"))
    put_heading(figure, f"{title} of every task (nats)")
    return figure


def _lines(ax: "Axes", curves: Sequence[Curves], tasks: Sequence[str]) -> None:
    final: dict[str, tuple[float, float]] = {}
    for index, task in enumerate(tasks):
        series = [run[task] for run in curves if task in run]
        if series:
            steps, mean, _ = mean_over_seeds(series)
            style = "--" if is_second(index, tasks) else "-"
            ax.plot(steps, mean, color=colour_of(index, tasks), lw=1.7, ls=style)
            final[task] = (float(steps[-1]), float(mean[-1]))
    ax.margins(x=0.02)
    task, (step, value) = max(final.items(), key=lambda item: item[1][1])
    ax.plot(step, value, "o", ms=5, color=colour_of(list(tasks).index(task), tasks), clip_on=False)
    ax.text(1, 0.98, f"worst: {task} {value:.2f}", transform=ax.transAxes, ha="right", va="top", fontsize=9)

"""The path of the mixture: one stacked area a label."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.plots.series import shares
from mixalign.reporting.show.plots.style import by_label, new_panels, put_heading, styled, titled
from mixalign.reporting.show.plots.tasks import colour_of, is_second, legend_keys, put_legend, shown_tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["mixture_paths", "share_axis", "stack"]


@styled
def mixture_paths(runs: Sequence[Run]) -> "Figure":
    """One stacked area a label: the share of every task over the steps, mean over seeds.

    Raises:
        MixalignError: No run has a mix.jsonl.
    """
    groups = by_label([run for run in runs if run.mix_history is not None], "mix.jsonl")
    tasks = shown_tasks(runs)
    figure, panels = new_panels(len(groups), len(tasks))
    for ax, (label, group) in zip(panels, groups.items(), strict=True):
        stack(ax, group, tasks)
        ax.set_title(titled(label, group))
    share_axis(panels)
    put_legend(figure, list(reversed(legend_keys(tasks, "area"))))
    put_heading(figure, "Share of every task in the mixture")
    return figure


def stack(ax: "Axes", group: Sequence[Run], tasks: Sequence[str]) -> None:
    """The mean shares of the runs, one band a task."""
    grid_S, share_KS = shares(group, tasks)
    bands = ax.stackplot(grid_S, share_KS, colors=[colour_of(k, tasks) for k in range(len(tasks))])
    for index, band in enumerate(bands):
        band.set(edgecolor="white", linewidth=0.5)
        if is_second(index, tasks):
            band.set_hatch("////")


def share_axis(panels: Sequence["Axes"]) -> None:
    """From nothing to all, in percent, without a frame."""
    for ax in panels:
        ax.set_ylim(0.0, 1.0)
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25 %", "50 %", "75 %", "100 %"])
        ax.margins(x=0)
        ax.spines[:].set_visible(False)

"""The mixture of one run as a small picture, for its model card."""

from typing import TYPE_CHECKING

from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.plots.mixture import share_axis, stack
from mixalign.reporting.show.plots.style import new_figure, styled
from mixalign.reporting.show.plots.tasks import legend_keys, put_legend, shown_tasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["mixture_picture"]


@styled
def mixture_picture(run: Run) -> "Figure":
    """The share of every task over the steps of a run that has a mix.jsonl."""
    tasks = shown_tasks([run])
    figure = new_figure(6.4, max(2.4, 0.21 * len(tasks) + 0.6))
    ax = figure.subplots()
    stack(ax, [run], tasks)
    share_axis([ax])
    ax.set_xlabel("step")
    put_legend(figure, list(reversed(legend_keys(tasks, "area"))))
    return figure

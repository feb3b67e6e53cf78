"""Figures for the page: each a picture within the file, or the reason why there is none."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mixalign.errors import MixalignError
from mixalign.reporting.judge.comparison import Comparison
from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.plots.excess import excess_paths
from mixalign.reporting.show.plots.forest import forest
from mixalign.reporting.show.plots.headline import headline
from mixalign.reporting.show.plots.mixture import mixture_paths
from mixalign.reporting.show.plots.scores import task_bars, worst_excess

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "forests", "picture", "pictures"]

FOREST = (
    "Method minus baseline within each seed: the mean, and its 95 % interval by Student's t, uncorrected. Where it "
    "reaches zero the point is hollow, and the seeds do not tell the two apart. Grey: static mixtures, blue: adaptive "
    "methods, orange: merges. A triangle at the edge is a method far beyond the others."
)
CAPTIONS = {
    "headline": "Left the mixture of the best adaptive mixer, right its worst task beside the baseline's.",
    "worst": "The task with the largest final value decides. A point is a seed, a bar the mean with one "
    "standard error; static mixtures are grey.",
    "mixture": "The height of a band is the share of a task: its weight in the loss where the mixer weighs "
    "losses, else how often it is drawn.",
    "excess": "One line a task, mean over seeds. The task that ends worst is named.",
    "tasks": "Mean over seeds. A task that is dark under every mixer is hard; one that is dark under a few of them is "
    "neglected there.",
}


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        address: The picture itself, as a `data:` address; empty when there is none.
        alternative: What it shows, for those who do not see it.
        caption: What one sees in it, or why there is none.
    """

    address: str
    alternative: str
    caption: str


def picture(draw: Callable[[], "Figure"], caption: str) -> Picture:
    """The figure that `draw` returns; where it has nothing to draw, its message is the caption."""
    try:
        figure = draw()
    except MixalignError as error:
        return Picture("", "", str(error))
    title = figure.get_suptitle() or "; ".join(ax.get_title(loc="left") for ax in figure.axes)
    address = f"data:image/svg+xml;base64,{base64.b64encode(_svg(figure)).decode('ascii')}"
    return Picture(address, f"{title}. {caption}".replace("\n", " "), caption)


def forests(comparison: Comparison) -> list[Picture]:
    """The paired differences by every score that has verdicts; none where no two labels share two seeds."""
    pairs = [pair for row in comparison.rows for by_score in row.differences.values() for pair in by_score.values()]
    metrics = comparison.verdict_metrics if any(pair.n > 1 for pair in pairs) else ()
    return [picture(partial(forest, comparison, metric), FOREST) for metric in metrics]


def pictures(runs: Sequence[Run], comparison: Comparison) -> list[Picture]:
    """All other figures with captions."""
    pair = _headline_pair(runs, comparison)
    shown: list[tuple[Callable[[], Figure], str]] = [
        (partial(worst_excess, runs), "worst"),
        (partial(mixture_paths, runs), "mixture"),
        (partial(excess_paths, runs), "excess"),
        (partial(task_bars, runs), "tasks"),
    ]
    if pair is not None:
        shown.insert(0, (partial(headline, *pair), "headline"))
    return [picture(draw, CAPTIONS[name]) for draw, name in shown]


def _headline_pair(runs: Sequence[Run], comparison: Comparison) -> tuple[list[Run], list[Run]] | None:
    """Seeds of the best adaptive label and of the baseline; None when one of the two is missing."""
    drawn = {run.label for run in runs if run.mix_history is not None}
    adaptive = [row.label for row in comparison.rows if row.method == "adaptive" and row.label in drawn]
    adaptive = [label for label in adaptive if label != comparison.baseline]
    if not adaptive:
        return None
    ours, theirs = ([run for run in runs if run.label == label] for label in (adaptive[0], comparison.baseline))
    return ours, theirs


def _svg(figure: "Figure") -> bytes:
    """The figure as SVG, the same bytes each time."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "mixalign"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()

"""How our figures look: colours, style, headings, panels, and names that do not overlap."""

import functools
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from mixalign.errors import MixalignError
from mixalign.reporting.read.history import Array
from mixalign.reporting.read.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ADAPTIVE", "GREY", "INK", "MUTED", "STATIC"]
__all__ += ["by_label", "inner", "new_figure", "new_panels", "put_heading", "spread", "styled", "titled", "wrapped"]

INK, MUTED, GREY = "#222222", "#666666", "#BBBBBB"
STATIC, ADAPTIVE = "#8A8A8A", "#0072B2"
STYLE: Any = {
    "font.size": 10,
    "font.family": "sans-serif",
    "text.parse_math": False,  # a task's name may hold a dollar sign
    "text.color": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#BBBBBB",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": "#E6E6E6",
    "hatch.linewidth": 0.6,
    "figure.facecolor": "white",
    "legend.frameon": False,
}
LONGEST = 26  # letters of a word in one piece
P = ParamSpec("P")


def styled(draw: Callable[P, "Figure"]) -> Callable[P, "Figure"]:
    """Draw under our style, and leave the caller's settings as they were."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def put_heading(figure: "Figure", text: str) -> None:
    """The figure's title, above its panels on the left."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=12.5, weight="bold")


def new_panels(count: int, num_tasks: int) -> tuple["Figure", list["Axes"]]:
    """A grid of at most three columns with exactly `count` axes, and room for a legend of the tasks."""
    columns = min(3, count)
    rows = math.ceil(count / columns)
    figure = new_figure(3.1 * columns + 1.7, max(2.3 * rows + 0.7, 0.21 * num_tasks + 0.7))
    grid = figure.add_gridspec(rows, columns)
    panels = [figure.add_subplot(grid[index // columns, index % columns]) for index in range(count)]
    for index, ax in enumerate(panels):
        ax.tick_params(labelleft=index % columns == 0)
    figure.supxlabel("step", fontsize=10, color=MUTED)
    return figure, panels


def by_label(runs: Sequence[Run], what: str) -> dict[str, list[Run]]:
    """Runs by label, in order.

    Args:
        what: What these runs have, for the message.

    Raises:
        MixalignError: There is none.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    if not groups:
        raise MixalignError(f"There is nothing to draw: no run has {what}.")
    return groups


def titled(label: str, group: Sequence[Run]) -> str:
    """A panel's title: the label and the number of seeds."""
    name, seeds = wrapped(label, 30), f"({len(group)} seed{'s' if len(group) > 1 else ''})"
    blank = " " if len(name.rpartition("\n")[2]) + len(seeds) < 34 else "\n"  # letters of a panel
    return f"{name}{blank}{seeds}"


def wrapped(label: str, width: int = 14) -> str:
    """The label on several lines, broken at blanks, and within words that are much longer than a line."""
    words = [word[start : start + LONGEST] for word in label.split() for start in range(0, len(word), LONGEST)]
    return textwrap.fill(" ".join(words), width, break_long_words=False, break_on_hyphens=False)


def spread(places_K: Array, gap: float) -> Array:
    """Ascending places at least `gap` apart, as near as simple pushing gets, inside [0, 1]."""
    spread_K = np.array(places_K, float)
    for index in range(1, len(spread_K)):
        spread_K[index] = max(spread_K[index], spread_K[index - 1] + gap)
    ceiling = 1.0 - gap / 2
    for index in reversed(range(len(spread_K))):
        spread_K[index] = min(spread_K[index], ceiling)
        ceiling = spread_K[index] - gap
    return spread_K


def inner(values: Sequence[float], times: float = 4.0) -> float:
    """The largest value that is no more than some times the median: one far beyond must not squash the others."""
    known = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    return max(value for value in known if value <= times * float(np.median(known)))

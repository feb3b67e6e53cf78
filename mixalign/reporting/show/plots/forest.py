"""Paired differences with their intervals, one row a method: which of them reach zero."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mixalign.errors import MixalignError
from mixalign.reporting.judge.comparison import TITLES, Comparison, Row
from mixalign.reporting.judge.statistics import Paired
from mixalign.reporting.show.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["forest"]


@style.styled
def forest(comparison: Comparison, metric: str) -> "Figure":
    """One panel a baseline, one row a label, best on top: the mean paired difference and its interval.

    What lies far beyond the others is drawn at the edge, with its value.

    Raises:
        MixalignError: No two labels share two seeds.
    """
    rows = sorted(comparison.rows, key=lambda row: (math.isnan(row.scores[metric].mean), row.scores[metric].mean))
    names = [name for name in comparison.baselines if any(_pair(row, name, metric) for row in rows)]
    if not names:
        raise MixalignError("There is nothing to draw: no two mixers share two seeds.")
    figure = style.new_figure(2.6 + 3.9 * len(names), 1.5 + 0.27 * len(rows))
    panels = list(figure.subplots(1, len(names), sharey=True, squeeze=False)[0])
    for ax, name in zip(panels, names, strict=True):
        _panel(ax, [_pair(row, name, metric) for row in rows], [style.METHOD_COLOURS[row.method] for row in rows])
        ax.set_title(style.wrapped(f"minus {name}", 40))
        ax.set_xlabel("nats, left of zero is better")
    panels[0].set_yticks(range(len(rows)), [style.wrapped(row.label, 40) for row in rows], color=style.INK)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    title = f"{TITLES[metric].capitalize()}: difference to a baseline on the same seed"
    style.put_heading(figure, title)
    return figure


def _pair(row: Row, name: str, metric: str) -> Paired | None:
    pair = row.differences.get(name, {}).get(metric)
    return pair if pair is not None and pair.n > 1 else None


def _panel(ax: "Axes", pairs: Sequence[Paired | None], colours: Sequence[str]) -> None:
    edge = 1.08 * style.inner([max(abs(pair.low), abs(pair.high)) for pair in pairs if pair is not None])
    ax.set_xlim(-edge, edge)
    ax.axvline(0.0, color=style.MUTED, lw=0.9)
    for place, (pair, colour) in enumerate(zip(pairs, colours, strict=True)):
        if pair is not None:
            _row(ax, place, pair, colour, edge)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")


def _row(ax: "Axes", place: int, pair: Paired, colour: str, edge: float) -> None:
    if abs(pair.mean) > edge:
        side = math.copysign(1.0, pair.mean)
        ax.plot(0.97 * side * edge, place, ">" if side > 0 else "<", ms=6, color=colour)
        text_style: dict[str, Any] = {"ha": "right" if side > 0 else "left", "va": "center", "fontsize": 8.5}
        ax.text(0.93 * side * edge, place, f"{pair.mean:+.2f}", color=colour, **text_style)
        return
    clear = pair.low > 0 or pair.high < 0
    ax.plot([max(pair.low, -edge), min(pair.high, edge)], [place, place], color=colour, lw=1.8)
    ax.plot(pair.mean, place, "o", ms=6, color=colour, mfc=colour if clear else "white", mew=1.5, zorder=3)

"""Trials of a search: what each key's values led to, one figure a key."""

import math
from collections.abc import Sequence
from typing import Any

from mixalign.reporting.read.trials import Search, Trial
from mixalign.reporting.show.figures.spec import Figure, Trace, axis, shown, trace
from mixalign.reporting.show.plots.style import inner

__all__ = ["slice_figures"]

MOST = 6  # keys that have a figure: those of the command first
FEWEST = 3  # trials with a value, below which a table says more
WIDE = 10.0  # largest by smallest value of a key, from which its axis is logarithmic
CAPTION = (
    "A point a trial; low is better. Full points are complete trials, the diamond the best of them; hollow ones were "
    "pruned, with their last validation."
)


def slice_figures(search: Search) -> list[Figure]:
    """What trials are judged by over the values of each key; none for keys with one value or hardly a trial."""
    figures = [_slice(search, key) for key in search.keys]
    return [figure for figure in figures if figure is not None][:MOST]


def _slice(search: Search, key: str) -> Figure | None:
    known = [one for one in search.trials if key in one.values and not math.isnan(one.value)]
    if len(known) < FEWEST or len({one.values[key] for one in known}) < 2:
        return None
    values = [_amount(one.values[key]) for one in known]
    is_number = all(map(math.isfinite, values))  # an axis of numbers has no place for infinity
    across = axis(key, **_scale([value for value in values if is_number]))
    places = dict(zip([one.number for one in known], values if is_number else _texts(known, key), strict=True))
    low = min(one.value for one in known)
    top = low + 1.08 * inner([one.value - low for one in known])  # one that diverged must not squash the others
    up = axis(f"{search.quantity} (nats)", range=[low - 0.08 * (top - low), top])
    far = [str(one.number) for one in known if one.value > top]
    caption = CAPTION + (f" Above the edge, seen after a double click: trial {', '.join(far)}." if far else "")
    traces = _traces(search, known, places, key)
    title = f"{search.quantity.capitalize()} by {key}"
    return Figure(title, caption, traces, {"xaxis": across, "yaxis": up, "hovermode": "closest"})


def _scale(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"type": "category"}
    return {"type": "log"} if min(values) > 0 and max(values) / min(values) >= WIDE else {"type": "linear"}


def _texts(known: Sequence[Trial], key: str) -> list[str]:
    return [one.values[key] for one in known]


def _amount(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _traces(search: Search, known: Sequence[Trial], places: dict[int, Any], key: str) -> list[Trace]:
    looks: dict[str, dict[str, Any]] = {
        "pruned": {"symbol": "circle-open", "color": "var(--muted)", "size": 9, "line": {"width": 2}},
        "complete": {"symbol": "circle", "color": "var(--accent)", "size": 9},
        "best": {"symbol": "diamond", "color": "var(--bad)", "size": 14},
    }
    kinds = {
        one.number: "best" if one is search.best else "pruned" if one.state != "complete" else one.state
        for one in known
    }
    traces = []
    for kind, look in looks.items():
        some = [one for one in known if kinds[one.number] == kind]
        if some:
            hover = f"trial %{{text}}, {kind}: %{{y:.4f}} at {shown(key)} %{{x}}<extra></extra>"
            xs, ys = [places[one.number] for one in some], [one.value for one in some]
            text = [str(one.number) for one in some]
            traces.append(trace(xs, ys, kind, mode="markers", marker=look, text=text, hovertemplate=hover))
    return traces

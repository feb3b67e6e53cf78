"""A figure as the page's script takes it: traces and axes of plotly, and what a reader may choose in it.

Colours are names of the page's style, `var(--t0)` for a task and `var(--r0)` for a run, so that figures follow it into
the dark.
"""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mixalign.reporting.show.plots.style import wrapped
from mixalign.reporting.show.plots.tasks import OTHERS, PALETTE

__all__ = ["Figure", "Trace", "axis", "has_line", "mean_of", "percent", "run_look", "shown", "task_colour", "trace"]

Trace = dict[str, Any]
Legend = Literal["", "runs", "tasks"]
RUN_COLOURS = 8
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "triangle-down")
DIGITS = 5  # of a number that is drawn
percent = ".1%"


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        title: What it shows. `caption`: how it is read.
        axes: Layout of plotly: axes and shapes.
        height: Pixels.
        legend: What its legend hides and shows.
        single: Whether it shows one run at a time, which the reader chooses.
    """

    title: str
    caption: str
    traces: list[Trace]
    axes: dict[str, Any] = field(default_factory=dict)
    height: int = 320
    legend: Legend = ""
    single: bool = False

    @property
    def json(self) -> str:
        """All that the script needs, safe within a script element; null where a number is not finite."""
        plain = {"data": self.traces, "layout": self.axes, "legend": self.legend, "single": self.single}
        text = json.dumps(_rounded(plain), allow_nan=False, separators=(",", ":"))
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def trace(
    xs: Iterable[Any], ys: Iterable[Any], name: str, *, run: str = "", task: str = "", hidden: bool = False, **look: Any
) -> Trace:
    """One trace.

    Args:
        run: The label that it belongs to. `task`: the task. Empty where it belongs to none, or to all.
        hidden: Whether the legend leaves it out: a part of another one.
        look: As plotly's own attributes.
    """
    meta = {"run": run, "task": task, "hidden": hidden}
    return {
        "type": "scatter",
        "x": list(xs),
        "y": list(ys),
        "name": shown(name),
        "meta": meta,
        "showlegend": False,
        **look,
    }


def shown(name: str) -> str:
    """A name on lines of its own, in which plotly finds no markup."""
    return "<br>".join(html.escape(line, quote=False) for line in wrapped(name, 26).splitlines())


def has_line(traces: Iterable[Trace]) -> bool:
    """Whether some line has two points, so that there is something to see in it."""
    return any(len(one["x"]) > 1 and "lines" in one.get("mode", "") for one in traces)


def mean_of(groups: Mapping[str, Sequence[Any]]) -> str:
    """What a caption says of seeds; nothing where every label has one."""
    return " Mean over seeds." if any(len(group) > 1 for group in groups.values()) else ""


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with its title."""
    return {"title": {"text": title}, **more}


def task_colour(index: int, tasks: Sequence[str]) -> str:
    """The colour of the task at this place."""
    return "var(--others)" if tasks[index] == OTHERS else f"var(--t{index % len(PALETTE)})"


def run_look(index: int) -> tuple[str, str, str]:
    """Colour, symbol and dash of the label at this place; dashes tell those of one colour apart."""
    dash = ("solid", "dash", "dot")[index // RUN_COLOURS % 3]
    return f"var(--r{index % RUN_COLOURS})", SYMBOLS[index % len(SYMBOLS)], dash


def _rounded(value: Any) -> Any:
    """Without digits that nobody sees, and numbers of numpy as Python's."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    number = float(value)
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else None

"""Where runs ended, on test rows: every task from start to end, the worst task beside cost and mean, differences."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from mixalign.final_rows import FinalRows
from mixalign.reporting.judge.advice import start_loss
from mixalign.reporting.judge.comparison import TITLES, Comparison, Row
from mixalign.reporting.judge.statistics import Paired, Score
from mixalign.reporting.read.files import number
from mixalign.reporting.show.figures.paths import Groups
from mixalign.reporting.show.figures.spec import Figure, Trace, axis, mean_of, run_look, shown, trace
from mixalign.reporting.show.plots.style import inner

__all__ = ["cost_figure", "dumbbell_figure", "forest_figures", "pareto_figure"]

ROW = 30  # pixels
FOREST = (
    "Method minus baseline within each seed: the mean, and its 95 % interval by Student's t, uncorrected. A hollow "
    "point's interval reaches zero: the seeds do not tell the two apart."
)


def dumbbell_figure(groups: Groups) -> Figure | None:
    """A line a task from the start to the end of one run; None where no run has a loss."""
    runs = [run for group in groups.values() for run in group]
    tasks = list(reversed(list(dict.fromkeys(task for run in runs for task in run.eval["tasks"]))))
    parts: dict[str, Callable[[Any, str], float]] = {
        "start": start_loss,
        "specialist": lambda run, task: number(run.eval["tasks"].get(task, {}).get("specialist_loss")),
        "result": lambda run, task: number(run.eval["tasks"].get(task, {}).get("loss")),
    }
    traces: list[Trace] = []
    for label, group in groups.items():
        losses = {name: [Score.of([of(run, t) for run in group]).mean for t in tasks] for name, of in parts.items()}
        traces += _dumbbells(label, tasks, losses)
    if not any(not math.isnan(x) for one in traces for x in one["x"] if x is not None):
        return None
    height = 130 + ROW * len(tasks)
    axes = {
        "xaxis": axis("loss (nats)", rangemode="tozero"),
        "yaxis": axis("", type="category"),
        "hovermode": "closest",
    }
    word = FinalRows.of(run.eval for group in groups.values() for run in group).word.capitalize()
    caption = (
        f"{word} loss: hollow where training started, full where it ended; the tick is the task's specialist. Where no "
        f"start was measured there is none.{mean_of(groups)}"
    )
    return Figure("Each task from start to end", caption, traces, axes, height=height, single=True)


def _dumbbells(label: str, tasks: Sequence[str], losses: dict[str, list[float]]) -> list[Trace]:
    looks: dict[str, dict[str, Any]] = {
        "start": {"symbol": "circle-open", "size": 11, "line": {"width": 2}, "color": "var(--muted)"},
        "specialist": {"symbol": "line-ns-open", "size": 18, "line": {"width": 3}, "color": "var(--bad)"},
        "result": {"symbol": "circle", "size": 12, "color": "var(--accent)"},
    }
    rows = [shown(task) for task in tasks]
    xs: list[float | None] = []
    ys: list[str] = []
    for row, start, end in zip(rows, losses["start"], losses["result"], strict=True):
        xs += [start, end, None]
        ys += [row, row, row]
    line = {"color": "var(--muted)", "width": 2}
    bars = trace(xs, ys, label, run=label, hidden=True, mode="lines", line=line, hoverinfo="skip")
    points = [
        trace(losses[n], rows, n, run=label, hidden=True, mode="markers", marker=look, hovertemplate=f"{n} %{{x:.3f}}")
        for n, look in looks.items()
    ]
    return [bars, *points]


def cost_figure(comparison: Comparison) -> Figure | None:
    """The worst task beside what it cost, a point a label; None where fewer than two labels say it."""
    priced = [row for row in comparison.rows if row.spent and row.spent.time.n]
    plain = all(row.spent and row.spent.times.n for row in priced)
    units = " or ".join(dict.fromkeys(row.spent.unit for row in priced if row.spent))
    unit = f"time of all trainings, in those of {comparison.plain}" if plain else f"time of all trainings ({units})"

    def cost(row: Row) -> Score:
        assert row.spent is not None
        return row.spent.times if plain else row.spent.time

    what = TITLES[comparison.metric]
    error = " Bars are one standard error." if any(len(row.seeds) > 1 for row in priced) else ""
    caption = f"Low and to the left is better: a lower {what} for less time.{error}"
    return _points(comparison, priced, cost, unit, f"Cost against {what}", caption)


def pareto_figure(comparison: Comparison) -> Figure | None:
    """The worst task beside the mean over tasks, a point a label; None where fewer than two labels have both."""
    what = TITLES[comparison.metric]
    caption = (
        "Low and to the left is better. A point with none below and to its left is on the Pareto front, which the "
        "dotted line joins: there the worst task improves only if the mean becomes worse."
    )
    rows = [row for row in comparison.rows if row.scores["mean_loss"].n]
    title = f"{what.capitalize()} against the mean over tasks"
    figure = _points(comparison, rows, lambda row: row.scores["mean_loss"], "mean loss (nats)", title, caption)
    if figure is not None:
        ends = [(row.scores["mean_loss"].mean, row.scores[comparison.metric].mean) for row in rows]
        front = sorted(p for p in ends if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in ends))
        look: dict[str, Any] = {
            "mode": "lines",
            "line": {"dash": "dot", "width": 1.5, "color": "var(--muted)"},
            "hoverinfo": "skip",
        }
        xs, ys = zip(*front, strict=True)
        figure.traces.insert(0, trace(xs, ys, "Pareto front", hidden=True, **look))
    return figure


def _points(
    comparison: Comparison, rows: Sequence[Row], place: Callable[[Row], Score], unit: str, title: str, caption: str
) -> Figure | None:
    rows = [row for row in rows if row.scores[comparison.metric].n]
    if len(rows) < 2:
        return None
    order = [row.label for row in comparison.rows]
    traces = []
    for row in rows:
        score, at = row.scores[comparison.metric], place(row)
        colour, symbol, _ = run_look(order.index(row.label))
        look: dict[str, Any] = {"color": colour, "symbol": symbol, "size": 11}
        errors: dict[str, Any] = {key: _bar(one) for key, one in (("error_x", at), ("error_y", score)) if one.n > 1}
        hover = f"%{{fullData.name}}: %{{y:.3f}} nats at %{{x:.4g}}, {row.method}<extra></extra>"
        traces.append(
            trace(
                [at.mean],
                [score.mean],
                row.label,
                run=row.label,
                mode="markers",
                marker=look,
                hovertemplate=hover,
                **errors,
            )
        )
    height = axis(f"{TITLES[comparison.metric]} (nats)", rangemode=_range(comparison.metric))
    axes = {"xaxis": axis(unit), "yaxis": height, "hovermode": "closest"}
    return Figure(title, caption, traces, axes, legend="runs")


def _range(metric: str) -> str:
    """Whether an axis begins at zero: that of an excess, which is none there, and of no loss."""
    return "tozero" if metric == "worst_excess" else "normal"


def _bar(score: Score) -> dict[str, Any]:
    return {"array": [score.error], "width": 3, "thickness": 1}


def forest_figures(comparison: Comparison) -> list[Figure]:
    """The paired differences to each baseline by every score that has verdicts, best on top."""
    figures = []
    for metric in comparison.verdict_metrics:
        for other in comparison.baselines:
            rows = [row for row in comparison.rows if other in row.differences]
            rows = [row for row in rows if row.differences[other][metric].n > 1]
            if rows:
                figures.append(_forest(comparison, rows, other, metric))
    return figures


def _forest(comparison: Comparison, rows: Sequence[Row], other: str, metric: str) -> Figure:
    order = [row.label for row in comparison.rows]
    traces = []
    for row in sorted(rows, key=lambda row: -row.scores[metric].mean):
        pair = row.differences[other][metric]
        colour, symbol, _ = run_look(order.index(row.label))
        symbol += "" if pair.low > 0 or pair.high < 0 else "-open"
        reach = {"array": [pair.high - pair.mean], "arrayminus": [pair.mean - pair.low], "width": 4, "thickness": 2}
        look = {"color": colour, "symbol": symbol, "size": 10, "line": {"width": 2}}
        hover = (
            f"{shown(row.label)}: {pair.mean:+.3f} {pair.interval}, better in {pair.wins} of {pair.n}<extra></extra>"
        )
        more: dict[str, Any] = {"mode": "markers", "marker": look, "error_x": reach, "hovertemplate": hover}
        traces.append(trace([pair.mean], [shown(row.label)], row.label, run=row.label, **more))
    zero = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": "var(--muted)"}}
    axes: dict[str, Any] = {
        "xaxis": axis("nats, left of zero is better", zeroline=False),
        "yaxis": axis("", type="category"),
        "shapes": [zero],
        "hovermode": "closest",
    }
    title = f"{TITLES[metric].capitalize()} minus that of {other}"
    axes["xaxis"]["range"], beyond = _without_far([row.differences[other][metric] for row in rows])
    far = [row.label for row, is_far in zip(rows, beyond, strict=True) if is_far]
    caption = FOREST + (f" Beyond the edge, seen after a double click: {', '.join(far)}." if far else "")
    return Figure(title, caption, traces, axes, height=130 + ROW * len(rows), legend="runs")


def _without_far(pairs: Sequence[Paired]) -> tuple[list[float], list[bool]]:
    """A range that one difference far beyond the others does not stretch, and which of them it leaves out."""
    edge = 1.08 * inner([max(abs(pair.low), abs(pair.high)) for pair in pairs])
    low = min(0.0, *(max(pair.low, -edge) for pair in pairs)) - 0.05 * edge
    high = max(0.0, *(min(pair.high, edge) for pair in pairs)) + 0.05 * edge
    return [low, high], [abs(pair.mean) > edge for pair in pairs]

"""What happened while runs trained: weights, excess by task, the worst task, samples seen.

Suffixes: `K` tasks, `S` steps of a common grid.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mixalign.final_rows import FinalRows
from mixalign.reporting.judge.comparison import TITLES
from mixalign.reporting.judge.statistics import Score
from mixalign.reporting.read.files import number
from mixalign.reporting.read.history import Array, Series
from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.figures.spec import (
    Figure,
    Trace,
    axis,
    has_line,
    mean_of,
    percent,
    run_look,
    shown,
    task_colour,
    trace,
)
from mixalign.reporting.show.plots.series import Curves, mean_over_seeds, shares, task_series, worst_series
from mixalign.reporting.show.plots.style import inner
from mixalign.reporting.show.plots.tasks import OTHERS, is_second, shown_tasks

__all__ = ["Groups", "excess_figure", "rows_figure", "series_of", "weights_figure", "worst_figure"]

Groups = dict[str, list[Run]]  # by label
MARK = {"symbol": "diamond-open", "size": 11, "line": {"width": 2}}
MARKED = "The curve is measured on {} rows; the diamond is the value on {} rows, at the step that was kept."


def weights_figure(groups: Groups) -> Figure | None:
    """The share of every task over the steps, stacked; None without a path of the mixture, or of one task."""
    tasks = shown_tasks([run for group in groups.values() for run in group])
    traces: list[Trace] = []
    for label, group in groups.items():
        if any(run.mix_history is not None for run in group):
            grid_S, share_KS = shares(group, tasks)
            traces += [_band(grid_S, share_KS[k], k, tasks, label) for k in range(len(tasks))]
    axes = {"xaxis": axis("step"), "yaxis": axis("", tickformat=".0%", range=[0, 1]), "hovermode": "x"}
    caption = (
        "The height of a band is the share of a task: its weight in the loss where the mixer weighs losses, else how "
        f"often it is drawn.{mean_of(groups)}"
    )
    title = "Weights of the tasks over time"
    there = len(tasks) > 1 and has_line(traces)
    return Figure(title, caption, traces, axes, legend="tasks", single=True) if there else None


def _band(grid_S: Array, share_S: Array, k: int, tasks: Sequence[str], label: str) -> Trace:
    colour = task_colour(k, tasks)
    pattern: dict[str, Any] = (
        {"fillpattern": {"shape": "/", "size": 6, "fgcolor": "var(--paper)", "bgcolor": colour}}
        if is_second(k, tasks)
        else {}
    )
    return trace(
        grid_S,
        share_S,
        tasks[k],
        run=label,
        task=tasks[k],
        stackgroup=label,
        mode="lines",
        line={"width": 0.5, "color": colour},
        fillcolor=colour,
        hovertemplate=f"%{{y:{percent}}}",
        **pattern,
    )


def worst_figure(groups: Groups, metric: str) -> Figure | None:
    """The worst task over the steps, a line a label; None where nothing was validated twice."""
    runs = [run for group in groups.values() for run in group]
    title, series = series_of(runs)
    traces: list[Trace] = []
    for index, (label, group) in enumerate(groups.items()):
        curves = [worst_series(series(run)) for run in group if series(run)]
        if curves:
            traces += _worst_line(curves, label, index)
            traces += _test_mark(group, [run.score(metric) for run in group], label, run_look(index)[0], run=label)
    if not has_line(traces):
        return None
    edge, far = _without_far(traces)
    axes = {
        "xaxis": axis("step", rangemode="tozero"),
        "yaxis": axis("nats", **({"range": [0.0, edge]} if far else {"rangemode": "tozero"})),
        "hovermode": "closest",
    }
    seeds = f"{mean_of(groups).removesuffix('.')}, the band is one standard error." if mean_of(groups) else ""
    caption = f"{title}, the task where it is largest. {_marked(title, groups)}{seeds}"
    caption += f" Beyond the edge, seen after a double click: {', '.join(far)}." if far else ""
    return Figure(f"{TITLES[metric].capitalize()} over time", caption, traces, axes, legend="runs")


def _without_far(traces: Sequence[Trace]) -> tuple[float, list[str]]:
    """A height that one label far above the others does not stretch, and which labels it leaves out in part."""
    highest: dict[str, float] = {}
    for one in traces:
        label = one["meta"]["run"]
        highest[label] = max([highest.get(label, 0.0), *(float(y) for y in one["y"] if np.isfinite(y))])
    edge = 1.08 * inner([*highest.values()])
    return edge, [label for label, value in highest.items() if value > edge]


def series_of(runs: Sequence[Run]) -> tuple[str, Callable[[Run], Curves]]:
    """What is drawn over the steps, and the reader of one run's curves; empty where nothing was recorded."""
    tasks = shown_tasks(runs)
    try:
        title, series = task_series(runs, tasks)
    except ValueError:  # nothing was recorded
        return "", lambda run: {}
    return title.rstrip(","), series


def _worst_line(curves: Sequence[Series], label: str, index: int) -> list[Trace]:
    steps_S, mean_S, error_S = mean_over_seeds(curves)
    colour, _, dash = run_look(index)
    there_and_back = np.concatenate([steps_S, steps_S[::-1]])
    band_S = np.concatenate([mean_S + error_S, (mean_S - error_S)[::-1]])
    line = trace(
        steps_S,
        mean_S,
        label,
        run=label,
        mode="lines" if len(steps_S) > 1 else "markers",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"color": colour},
        hovertemplate="%{fullData.name}: %{y:.3f}, step %{x:.0f}<extra></extra>",
    )
    if not error_S.any():
        return [line]
    look: dict[str, Any] = {
        "fill": "toself",
        "fillcolor": colour,
        "opacity": 0.18,
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    return [trace(there_and_back, band_S, label, run=label, hidden=True, mode="lines", **look), line]


def _marked(title: str, groups: Groups) -> str:
    curve = "training" if title.startswith("Training") else "validation"
    return MARKED.format(curve, FinalRows.of(run.eval for group in groups.values() for run in group).word)


def _test_mark(
    group: Sequence[Run], values: Sequence[float], name: str, colour: str, *, run: str, task: str = ""
) -> list[Trace]:
    """The value on the final rows at the step whose model was kept."""
    score = Score.of(values)
    steps = Score.of([number((r.eval.get("exported") or {}).get("step", r.eval.get("steps"))) for r in group])
    last = [r.mix_history.step_N[-1] for r in group if r.mix_history is not None]
    at = steps.mean if steps.n else float(np.mean(last)) if last else np.nan
    if not score.n or np.isnan(at):
        return []
    error = {"error_y": {"array": [score.error], "width": 4}} if score.n > 1 else {}
    split = FinalRows.of(run.eval for run in group).word
    look: dict[str, Any] = {"mode": "markers", "marker": {**MARK, "color": colour}, **error}
    hover = f"{shown(name)}: %{{y:.3f}} on {split} rows<extra></extra>"
    return [trace([at], [score.mean], name, run=run, task=task, hidden=True, hovertemplate=hover, **look)]


def excess_figure(groups: Groups) -> Figure | None:
    """Every task's curve under one label; None where nothing was validated twice, or there is one task."""
    runs = [run for group in groups.values() for run in group]
    tasks = shown_tasks(runs)
    title, series = series_of(runs)
    key = "loss" if title == "Validation loss" else "excess"
    traces: list[Trace] = []
    for label, group in groups.items():
        curves = [series(run) for run in group]
        for k, task in enumerate(tasks):
            known = [curve[task] for curve in curves if task in curve]
            if known:
                traces += _task_line(known, label, k, tasks)
            if known and task != OTHERS:
                values = [number(run.eval["tasks"].get(task, {}).get(key)) for run in group]
                traces += _test_mark(group, values, task, task_colour(k, tasks), run=label, task=task)
    axes = {
        "xaxis": axis("step", rangemode="tozero"),
        "yaxis": axis("nats", rangemode="tozero"),
        "hovermode": "closest",
    }
    caption = f"One line a task. {_marked(title, groups)}{mean_of(groups)}"
    there = len(tasks) > 1 and has_line(traces)
    return Figure(f"{title} of every task", caption, traces, axes, legend="tasks", single=True) if there else None


def _task_line(known: Sequence[Series], label: str, k: int, tasks: Sequence[str]) -> list[Trace]:
    steps_S, mean_S, _ = mean_over_seeds(known)
    colour = task_colour(k, tasks)
    return [
        trace(
            steps_S,
            mean_S,
            tasks[k],
            run=label,
            task=tasks[k],
            mode="lines" if len(steps_S) > 1 else "markers",
            line={"color": colour, "width": 2, "dash": "dash" if is_second(k, tasks) else "solid"},
            marker={"color": colour},
            hovertemplate="%{fullData.name}: %{y:.3f}, step %{x:.0f}<extra></extra>",
        )
    ]


def rows_figure(groups: Groups) -> Figure | None:
    """How many samples of each task were trained on, a bar a label; None where no run says it."""
    tasks = shown_tasks([run for group in groups.values() for run in group])
    seen = {label: _rows_seen(group, tasks) for label, group in groups.items()}
    seen = {label: rows_K for label, rows_K in seen.items() if rows_K.any()}
    if not seen or len(tasks) * len(seen) < 2:
        return None
    labels = list(reversed(seen))
    traces = [
        trace(
            [seen[label][k] for label in labels],
            [shown(label) for label in labels],
            task,
            task=task,
            type="bar",
            orientation="h",
            marker={"color": task_colour(k, tasks), "line": {"width": 0.5, "color": "var(--paper)"}},
            hovertemplate="%{fullData.name}: %{x:,.0f} samples<extra>%{y}</extra>",
        )
        for k, task in enumerate(tasks)
    ]
    axes = {"barmode": "stack", "xaxis": axis("samples"), "yaxis": axis("", type="category")}
    height = 150 + 30 * len(labels)
    return Figure("Samples seen of each task", mean_of(groups).strip(), traces, axes, height=height, legend="tasks")


def _rows_seen(group: Sequence[Run], tasks: Sequence[str]) -> Array:
    """Mean over seeds, (K,)."""
    rows_K = np.zeros(len(tasks))
    for run in group:
        for task, rows in zip(run.tasks, run.mixture.get("rows_seen") or (), strict=False):
            rows_K[tasks.index(task if task in tasks else OTHERS)] += np.nan_to_num(number(rows)) / len(group)
    return rows_K

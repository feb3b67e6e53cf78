"""Pictures of runs, as matplotlib figures that belong to no window and no global state.

Suffixes: `K` tasks, `S` steps of a common grid. Every task has one colour in all figures.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from mixalign.errors import MixalignError
from mixalign.reporting.runs import Run
from mixalign.reporting.statistics import Score
from mixalign.reporting.table import STATIC_MIXERS, TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["excess_paths", "headline", "mixture_paths", "task_bars", "worst_excess"]

MAX_TASKS = 20  # more cannot be told apart: the top 19 are shown, the rest is "others"
MAX_ACROSS = 8  # labels beside each other in a table
OTHERS = "others"
GRID_STEPS = 120
# Okabe and Ito's colours, dark grey for their pale yellow, then three of Paul Tol's.
# The second ten tasks repeat them, hatched or dashed.
PALETTE = [
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#555555",
    "#332288",
    "#882255",
    "#999933",
]
INK, MUTED, STATIC, ADAPTIVE, GREY = "#222222", "#666666", "#8A8A8A", "#0072B2", "#BBBBBB"
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
Groups = dict[str, list[Run]]
Series = tuple[np.ndarray, np.ndarray]  # steps and values, both (S,)
P = ParamSpec("P")


def _styled(draw: Callable[P, "Figure"]) -> Callable[P, "Figure"]:
    """Draw under our style, and leave the caller's settings as they were."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


@_styled
def mixture_paths(runs: Sequence[Run]) -> "Figure":
    """One stacked area a label: the share of every task over the steps, mean over seeds.

    Raises:
        MixalignError: No run has a mix.jsonl.
    """
    groups = _groups([run for run in runs if run.mix_history is not None], "mix.jsonl")
    tasks = _shown_tasks(runs)
    figure, panels = _panels(len(groups), len(tasks))
    for ax, (label, group) in zip(panels, groups.items(), strict=True):
        _stack(ax, group, tasks)
        ax.set_title(_titled(label, group))
    _share_axis(panels)
    _legend(figure, list(reversed(_keys(tasks, "area"))))
    figure.suptitle("Share of every task in the mixture", x=0.01, ha="left", fontsize=12.5, weight="bold")
    return figure


@_styled
def excess_paths(runs: Sequence[Run]) -> "Figure":
    """One panel a label: every task's excess over the steps, mean over seeds, the final worst task named.

    Takes the validation excess; without it the smoothed training excess; without that the validation loss.

    Raises:
        MixalignError: No run has any of them.
    """
    tasks = _shown_tasks(runs)
    title, series = _task_series(runs, tasks)
    groups = _groups([run for run in runs if series(run)], "validation history")
    figure, panels = _panels(len(groups), len(tasks))
    for ax, (label, group) in zip(panels, groups.items(), strict=True):
        _lines(ax, [series(run) for run in group], tasks)
        ax.set_title(_titled(label, group))
        ax.grid(axis="y")
    top = max(ax.dataLim.y1 for ax in panels) or 1.0
    for ax in panels:
        ax.set_ylim(0.0, 1.2 * top)  # the fifth above the curves is for the name of the worst task
    _legend(figure, _keys(tasks, "line"))
    figure.suptitle(f"{title} of every task (nats)", x=0.01, ha="left", fontsize=12.5, weight="bold")
    return figure


@_styled
def worst_excess(runs: Sequence[Run]) -> "Figure":
    """One line a label, best on top: a point a seed, and the mean with its standard error.

    Raises:
        MixalignError: No run has final scores.
    """
    metric = _ranked_by(runs)
    groups = _groups([run for run in runs if not math.isnan(run.score(metric))], "final scores")
    ranked = sorted(groups.items(), key=lambda item: Score.of([r.score(metric) for r in item[1]]).mean)
    figure = _figure(7.6, 1.1 + 0.44 * len(ranked))
    ax = figure.subplots()
    edge = 1.05 * _inner([max(run.score(metric) for run in group) for _, group in ranked])
    for row, (_, group) in enumerate(ranked):
        _seeds(ax, row, [run.score(metric) for run in group], group[0].mixer in STATIC_MIXERS, edge)
    ax.set_yticks(range(len(ranked)), [label for label, _ in ranked], color=INK)
    ax.set_ylim(len(ranked) - 0.5, -0.5)
    ax.set_xlim(0.0, 1.05 * edge)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.set_xlabel("nats, lower is better")
    heading = TITLES[metric].capitalize()
    figure.suptitle(f"{heading} over tasks", x=0.01, ha="left", fontsize=12.5, weight="bold")
    key = "point: one seed, bar: mean \u00b1 standard error, grey: static mixture"
    ax.set_title(key, weight="normal", color=MUTED, fontsize=9.5)
    return figure


@_styled
def task_bars(runs: Sequence[Run]) -> "Figure":
    """A table of tasks by labels, shaded by the final excess in nats; each label's worst task is framed.

    With more than eight labels these go down and the tasks across.

    Raises:
        MixalignError: No run has final scores.
    """
    key = _ranked_by(runs).removeprefix("worst_")
    groups = _groups([run for run in runs if run.eval.get("tasks")], "final scores")
    shown = _shown_tasks(runs)
    table = np.array([[_final(group, task, key, shown) for group in groups.values()] for task in shown])
    across, down = list(groups), shown
    if turned := len(across) > MAX_ACROSS:
        table, across, down = table.T, shown, list(groups)
    figure = _figure(max(5.2, 2.2 + 1.05 * len(across)), 1.6 + 0.33 * len(down))
    ax = figure.subplots()
    top = 1.2 * _inner([value for value in table.max(0 if not turned else 1) if math.isfinite(value)])
    ax.imshow(np.ma.masked_invalid(table), cmap="Blues", vmin=0.0, vmax=top * 1.15, aspect="auto")
    _annotate(ax, table, top, turned)
    ax.set_xticks(range(len(across)), [_wrapped(name) for name in across], color=INK)
    ax.set_yticks(range(len(down)), down, color=INK)
    ax.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    figure.suptitle(f"Final {key} by task (nats), worst task framed", x=0.01, ha="left", fontsize=12.5, weight="bold")
    return figure


@_styled
def headline(run_a: Run | Sequence[Run], run_b: Run | Sequence[Run]) -> "Figure":
    """Left the mixture of `run_a` over the steps, right the worst task's excess of both.

    Args:
        run_a: The adaptive run, or its seeds. `run_b`: what it is compared with, one run or its seeds.

    Raises:
        MixalignError: `run_a` has no mix.jsonl, or one of them has no validation history.
    """
    left, right = ([run] if isinstance(run, Run) else list(run) for run in (run_a, run_b))
    tasks = _shown_tasks([*left, *right])
    _groups([run for run in left if run.mix_history is not None], "mix.jsonl")
    title, series = _task_series([*left, *right], tasks)
    figure = _figure(10.4, 3.9)
    area, lines = figure.subplots(1, 2, width_ratios=[1.0, 1.0])
    _stack(area, left, tasks)
    _share_axis([area])
    _name_bands(area, left, tasks)
    area.set_title(f"Share of each task under {left[0].label}")
    area.set_xlabel("step")
    pairs = ((right, STATIC), (left, ADAPTIVE))
    ends = [_worst_line(lines, [series(run) for run in group], group[0].label, colour) for group, colour in pairs]
    lines.set_title(f"{title.rstrip(',')}, worst task (nats)")
    lines.set_xlabel("step")
    lines.set_ylim(0.0, 1.08 * (lines.dataLim.y1 or 1.0))
    lines.grid(axis="y")
    _name_ends(lines, [(group[0].label, end, colour) for (group, colour), end in zip(pairs, ends, strict=True)])
    return figure


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _panels(count: int, num_tasks: int) -> tuple["Figure", list["Axes"]]:
    """A grid of at most three columns with exactly `count` axes, and room for a legend of the tasks."""
    columns = min(3, count)
    rows = math.ceil(count / columns)
    figure = _figure(3.1 * columns + 1.7, max(2.3 * rows + 0.7, 0.21 * num_tasks + 0.7))
    grid = figure.add_gridspec(rows, columns)
    panels = [figure.add_subplot(grid[index // columns, index % columns]) for index in range(count)]
    for index, ax in enumerate(panels):
        ax.tick_params(labelleft=index % columns == 0)
    figure.supxlabel("step", fontsize=10, color=MUTED)
    return figure, panels


def _groups(runs: Sequence[Run], what: str) -> Groups:
    """Runs by label, in order."""
    groups: Groups = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    if not groups:
        raise MixalignError(f"There is nothing to draw: no run has {what}.")
    return groups


def _titled(label: str, group: Sequence[Run]) -> str:
    return f"{_wrapped(label, 30)} ({len(group)} seed{'s' if len(group) > 1 else ''})"


def _wrapped(label: str, width: int = 14) -> str:
    """The label on several lines, broken at spaces."""
    lines = [""]
    for word in label.split():
        fits = not lines[-1] or len(lines[-1]) + len(word) < width
        lines = [*lines[:-1], f"{lines[-1]} {word}".strip()] if fits else [*lines, word]
    return "\n".join(lines)


def _shown_tasks(runs: Sequence[Run]) -> list[str]:
    """Task names in the mixture's order; beyond twenty the 19 with the largest weight, and "others"."""
    names = list(dict.fromkeys(task for run in runs for task in run.tasks))
    if len(names) <= MAX_TASKS:
        return names
    weight = dict.fromkeys(names, 0.0)
    for run in runs:
        if run.mix_history is not None:
            for task, share in zip(run.tasks, run.mix_history.alpha_NK.mean(0), strict=True):
                weight[task] = max(weight[task], float(share))
    top = sorted(names, key=lambda name: -weight[name])[: MAX_TASKS - 1]
    return [*(name for name in names if name in top), OTHERS]


def _colour(index: int, tasks: Sequence[str]) -> str:
    return GREY if tasks[index] == OTHERS else PALETTE[index % len(PALETTE)]


def _keys(tasks: Sequence[str], kind: str) -> list[Any]:
    """Legend entries in the colours, hatches and dashes of the tasks."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    second = [index >= len(PALETTE) and task != OTHERS for index, task in enumerate(tasks)]
    if kind == "line":
        return [
            Line2D([], [], color=_colour(k, tasks), lw=2, ls="--" if second[k] else "-", label=task)
            for k, task in enumerate(tasks)
        ]
    return [
        Patch(facecolor=_colour(k, tasks), edgecolor="white", hatch="////" if second[k] else None, label=task)
        for k, task in enumerate(tasks)
    ]


def _legend(figure: "Figure", keys: list[Any]) -> None:
    figure.legend(handles=keys, loc="outside right center", fontsize=9, handlelength=1.4, labelspacing=0.35)


def _share_axis(panels: Sequence["Axes"]) -> None:
    for ax in panels:
        ax.set_ylim(0.0, 1.0)
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25 %", "50 %", "75 %", "100 %"])
        ax.margins(x=0)
        ax.spines[:].set_visible(False)


def _shares(group: Sequence[Run], tasks: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Steps (S,) and the mean share of the shown tasks over seeds, (K, S), up to the shortest run's end."""
    histories = [run.mix_history for run in group if run.mix_history is not None]
    grid_S = _grid([history.step_N for history in histories])
    share_KS = np.zeros((len(tasks), len(grid_S)))
    for history in histories:
        for task, alpha_N in zip(history.tasks, history.alpha_NK.T, strict=True):
            row = tasks.index(task if task in tasks else OTHERS)
            share_KS[row] += np.interp(grid_S, history.step_N, alpha_N) / len(histories)
    return grid_S, share_KS


def _grid(steps: Sequence[np.ndarray]) -> np.ndarray:
    start, end = max(step.min() for step in steps), min(step.max() for step in steps)
    points = min(GRID_STEPS, max(len(step) for step in steps))
    return np.linspace(start, max(end, start + 1e-9), max(points, 2))


def _stack(ax: "Axes", group: Sequence[Run], tasks: Sequence[str]) -> None:
    grid_S, share_KS = _shares(group, tasks)
    bands = ax.stackplot(grid_S, share_KS, colors=[_colour(k, tasks) for k in range(len(tasks))])
    for index, band in enumerate(bands):
        band.set(edgecolor="white", linewidth=0.5)
        if index >= len(PALETTE) and tasks[index] != OTHERS:
            band.set_hatch("////")


def _name_bands(ax: "Axes", group: Sequence[Run], tasks: Sequence[str]) -> None:
    """Names to the right of the bands, pushed apart where the bands are thin."""
    last_K = _shares(group, tasks)[1][:, -1]
    middle_K = np.cumsum(last_K) - last_K / 2
    gap = min(0.065, 1.0 / max(len(tasks), 1))
    for task, place, share in zip(tasks, _spread(middle_K, gap), last_K, strict=True):
        index = tasks.index(task)
        colour = _colour(index, tasks)
        ax.plot(1.02, place, marker="s", ms=6, color=colour, transform=ax.transAxes, clip_on=False)
        text = f"{task} {share:.0%}".replace("%", " %")
        ax.text(1.045, place, text, transform=ax.transAxes, va="center", fontsize=9 if gap > 0.06 else 7)


def _spread(places_K: np.ndarray, gap: float) -> np.ndarray:
    """Ascending places at least `gap` apart, as near as simple pushing gets, inside [0, 1]."""
    spread_K = np.array(places_K, float)
    for index in range(1, len(spread_K)):
        spread_K[index] = max(spread_K[index], spread_K[index - 1] + gap)
    ceiling = 1.0 - gap / 2
    for index in reversed(range(len(spread_K))):
        spread_K[index] = min(spread_K[index], ceiling)
        ceiling = spread_K[index] - gap
    return spread_K


def _task_series(runs: Sequence[Run], tasks: Sequence[str]) -> tuple[str, Callable[[Run], dict[str, Series]]]:
    """The best source of per-task curves that some run has: its title, and the reader of one run's curves."""
    sources: list[tuple[str, Callable[[Run], dict[str, Series]]]] = [
        ("Validation excess", lambda run: _validation(run, "eval_excess/", tasks)),
        ("Training excess, smoothed,", lambda run: _training(run, tasks)),
        ("Validation loss", lambda run: _validation(run, "eval_loss/", tasks)),
    ]
    for title, source in sources:
        if any(source(run) for run in runs):
            return title, source
    raise MixalignError("There is nothing to draw: no run has validation history or training excess.")


def _validation(run: Run, prefix: str, tasks: Sequence[str]) -> dict[str, Series]:
    curves: dict[str, Series] = {}
    for name, (steps, values) in run.validation.items():
        if name.startswith(prefix) and np.isfinite(values).any():
            _add(curves, name.removeprefix(prefix), tasks, (steps, values))
    return curves


def _training(run: Run, tasks: Sequence[str]) -> dict[str, Series]:
    curves: dict[str, Series] = {}
    history = run.mix_history
    if history is not None:
        for task, excess_N in zip(history.tasks, history.excess_NK.T, strict=True):
            if np.isfinite(excess_N).any():
                _add(curves, task, tasks, (history.step_N, _smooth(excess_N)))
    return curves


def _add(curves: dict[str, Series], task: str, tasks: Sequence[str], series: Series) -> None:
    """Put a task's curve in place; the curves of "others" become their maximum."""
    if task in tasks:
        curves[task] = series
    elif OTHERS in tasks:
        old = curves.get(OTHERS, series)
        curves[OTHERS] = (series[0], np.fmax(np.interp(series[0], *old), series[1]))


def _smooth(values_N: np.ndarray) -> np.ndarray:
    """Running mean over a tenth of the run that ignores gaps; NaN where the whole window is empty."""
    width = max(1, len(values_N) // 10)
    known_N = np.isfinite(values_N)
    window = np.ones(2 * width + 1)
    total, count = (
        np.convolve(part, window)[width : width + len(values_N)]
        for part in (np.where(known_N, values_N, 0.0), known_N.astype(float))
    )
    return np.divide(total, count, out=np.full(len(values_N), np.nan), where=count > 0)


def _mean_over_seeds(series: Sequence[Series]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean, standard error, each (S,), on a grid that all seeds cover; one seed has error 0."""
    known = [(steps[np.isfinite(values)], values[np.isfinite(values)]) for steps, values in series]
    grid_S = _grid([steps for steps, _ in known])
    values_RS = np.array([np.interp(grid_S, steps, values) for steps, values in known])
    if len(known) == 1:
        return *known[0], np.zeros(len(known[0][0]))
    return grid_S, values_RS.mean(0), values_RS.std(0, ddof=1) / math.sqrt(len(known))


def _lines(ax: "Axes", curves: Sequence[dict[str, Series]], tasks: Sequence[str]) -> None:
    final: dict[str, tuple[float, float]] = {}
    for index, task in enumerate(tasks):
        series = [run[task] for run in curves if task in run]
        if series:
            steps, mean, _ = _mean_over_seeds(series)
            style = "--" if index >= len(PALETTE) and task != OTHERS else "-"
            ax.plot(steps, mean, color=_colour(index, tasks), lw=1.7, ls=style)
            final[task] = (float(steps[-1]), float(mean[-1]))
    ax.margins(x=0.02)
    task, (step, value) = max(final.items(), key=lambda item: item[1][1])
    ax.plot(step, value, "o", ms=5, color=_colour(list(tasks).index(task), tasks), clip_on=False)
    ax.text(1, 0.98, f"worst: {task} {value:.2f}", transform=ax.transAxes, ha="right", va="top", fontsize=9)


def _worst_line(ax: "Axes", curves: Sequence[dict[str, Series]], label: str, colour: str) -> float:
    """The maximum over tasks, mean over seeds, in a band of one standard error; returns its last value."""
    worst = []
    for run in curves:
        if run:
            steps = _grid([series[0] for series in run.values()])
            known = [(s[np.isfinite(v)], v[np.isfinite(v)]) for s, v in run.values()]
            worst.append((steps, np.max([np.interp(steps, *series) for series in known], axis=0)))
    if not worst:
        raise MixalignError(f"`{label}` has no validation history to draw; run it with a validation interval.")
    steps, mean, error = _mean_over_seeds(worst)
    ax.fill_between(steps, mean - error, mean + error, color=colour, alpha=0.2, lw=0)
    ax.plot(steps, mean, color=colour, lw=2.2)
    ax.margins(x=0)
    ax.plot(steps[-1], mean[-1], "o", ms=5, color=colour, clip_on=False)
    return float(mean[-1])


def _name_ends(ax: "Axes", ends: Sequence[tuple[str, float, str]]) -> None:
    """Names and last values to the right of the curves, pushed apart where they would overlap."""
    top = ax.get_ylim()[1]
    ranked = sorted(ends, key=lambda end: end[1])
    places = _spread(np.array([value / top for _, value, _ in ranked]), 0.14)
    for (label, value, colour), place in zip(ranked, places, strict=True):
        style: dict[str, Any] = {"color": colour, "weight": "bold", "va": "center", "linespacing": 1.0}
        ax.text(1.03, place, f"{_wrapped(label)}\n{value:.3f}", transform=ax.transAxes, **style)


def _ranked_by(runs: Sequence[Run]) -> str:
    return "worst_loss" if all(math.isnan(run.score("worst_excess")) for run in runs) else "worst_excess"


def _inner(values: Sequence[float], times: float = 4.0) -> float:
    """The largest value that is no more than some times the median: one far beyond must not squash the others."""
    known = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    return max(value for value in known if value <= times * float(np.median(known)))


def _seeds(ax: "Axes", row: int, values: Sequence[float], static: bool, edge: float) -> None:
    colour = STATIC if static else ADAPTIVE
    score = Score.of(values)
    if score.mean > edge:
        ax.plot(edge, row, ">", ms=7, color=colour)
        ax.annotate(f"{score.mean:.3f}", (edge, row), (-8, 0), textcoords="offset points", ha="right", va="center")
        return
    error = score.error if score.n > 1 else None
    ax.errorbar(score.mean, row, xerr=error, fmt="|", ms=15, mew=2.2, color=colour, elinewidth=2.2)
    ax.plot(values, [row] * len(values), "o", ms=5, color=colour, mec="white", mew=0.7, zorder=3)
    ax.annotate(f"{score.mean:.3f}", (score.mean, row), (0, 9), textcoords="offset points", ha="center", fontsize=8.5)


def _final(group: Sequence[Run], task: str, key: str, shown: Sequence[str]) -> float:
    """Mean over seeds of a task's final number; "others" gives the largest of the tasks not shown."""
    rows = [run.eval["tasks"] for run in group]
    names = [task] if task != OTHERS else sorted({name for row in rows for name in row} - set(shown))
    means = [Score.of([_value(row, name, key) for row in rows]).mean for name in names]
    return max((mean for mean in means if not math.isnan(mean)), default=math.nan)


def _value(row: dict[str, Any], task: str, key: str) -> float:
    from mixalign.reporting.runs import number

    return number((row.get(task) or {}).get(key))


def _annotate(ax: "Axes", table: np.ndarray, top: float, turned: bool) -> None:
    from matplotlib.patches import Rectangle

    for (row, column), value in np.ndenumerate(table):
        text = "-" if math.isnan(value) else f"{value:.3f}"
        ax.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=9,
            color="white" if value > 0.7 * top else INK,
        )
    for index, values in enumerate(table if turned else table.T):
        if np.isfinite(values).any():
            place = int(np.nanargmax(values))
            column, row = (place, index) if turned else (index, place)
            ax.add_patch(Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, ec="#D55E00", lw=2))

"""Runs that were made in rounds: the target loss after each, every task's volume, predicted and actual changes.

Suffix: `D` rounds, counted from 0. Losses in nats, volumes in rows.
"""

import math
from collections.abc import Sequence
from typing import Any

from mixalign.reporting.judge.rounds import LOSS, Groups, History, best_label, by_task, over_seeds
from mixalign.reporting.read.files import number
from mixalign.reporting.show.figures.spec import Figure, axis, mean_of, run_look, task_colour, trace
from mixalign.reporting.show.plots.tasks import OTHERS, is_second

__all__ = ["change_figure", "loss_figure", "volume_figure"]

ROUNDS: dict[str, Any] = {"tickformat": "d", "dtick": 1}


def loss_figure(groups: Groups, order: Sequence[str]) -> Figure:
    """The mean target loss after every round, a line a label; a large point at rounds that were kept.

    Args:
        order: All labels of the page, whose places decide how they look.
    """
    traces = []
    for label, group in groups.items():
        scores, kept = over_seeds(group, LOSS), [history.kept for history in group]
        colour, symbol, dash = run_look(order.index(label))
        rounds = list(range(len(scores)))
        symbols = [f"{symbol}{'' if score.n == len(group) else '-open'}" for score in scores]
        sizes = [14 if d in kept else 8 for d in rounds]
        error = {"error_y": {"array": [0.0 if math.isnan(s.error) else s.error for s in scores], "width": 3}}
        look = {"line": {"color": colour, "dash": dash}, "marker": {"color": colour, "symbol": symbols, "size": sizes}}
        hover = "%{fullData.name}: %{y:.4f} nats, round %{x}<extra></extra>"
        more: dict[str, Any] = {**look, **(error if len(group) > 1 else {})}
        means = [score.mean for score in scores]
        traces.append(trace(rounds, means, label, run=label, mode="lines+markers", hovertemplate=hover, **more))
    caption = "A large point is a round that was kept."
    if mean_of(groups):
        caption = (
            "Mean over seeds with one standard error. A large point is a round that some seed kept; a hollow one lacks "
            "seeds that had ended before."
        )
    axes = {"xaxis": axis("round", **ROUNDS), "yaxis": axis("nats"), "hovermode": "closest"}
    return Figure("Target loss after every round", caption, traces, axes, legend="runs")


def volume_figure(groups: Groups, tasks: Sequence[str]) -> Figure:
    """The volume of every task under the label with the lowest loss, as multiples of round 0's."""
    best = best_label(groups)
    traces = []
    for k, task in enumerate(tasks):
        scores = over_seeds(groups[best], "volumes", task)
        growth = [score.mean / (scores[0].mean or math.nan) for score in scores]
        if task != OTHERS and any(not math.isnan(value) for value in growth):
            colour = task_colour(k, tasks)
            look = {"line": {"color": colour, "dash": "dash" if is_second(k, tasks) else "solid"}}
            hover = "%{fullData.name}: %{y:.2f} times round 0<extra></extra>"
            more: dict[str, Any] = {**look, "marker": {"color": colour}, "hovertemplate": hover}
            traces.append(trace(list(range(len(growth))), growth, task, task=task, mode="lines+markers", **more))
    axes = {"xaxis": axis("round", **ROUNDS), "yaxis": axis("times round 0"), "hovermode": "closest"}
    return Figure(
        f"Volume of each task under {best}", mean_of({best: groups[best]}).strip(), traces, axes, legend="tasks"
    )


def change_figure(groups: Groups, tasks: Sequence[str]) -> Figure | None:
    """Predicted against actual change of each target's loss, a point a seed and round; None where none is known."""
    best = best_label(groups)
    traces, ends = [], [0.0]
    for k, task in enumerate(tasks):
        pairs = _changes(groups[best], task)
        if pairs:
            xs, ys, names = zip(*pairs, strict=True)
            ends += [*xs, *ys]
            hover = "%{fullData.name}, %{text}: predicted %{x:+.4f}, came %{y:+.4f}<extra></extra>"
            look: dict[str, Any] = {"marker": {"color": task_colour(k, tasks), "size": 10}, "hovertemplate": hover}
            traces.append(trace(xs, ys, task, task=task, mode="markers", text=list(names), **look))
    if not traces:
        return None
    low, high = min(ends), max(ends)
    line: dict[str, Any] = {"mode": "lines", "line": {"dash": "dot", "color": "var(--muted)"}, "hoverinfo": "skip"}
    traces.append(trace([low, high], [low, high], "as predicted", hidden=True, **line))
    axes = {"xaxis": axis("predicted change (nats)"), "yaxis": axis("actual change (nats)"), "hovermode": "closest"}
    caption = (
        "Change of a target's loss since the round before. On the dotted line the prediction came true; in the lower "
        "left and upper right its sign did."
    )
    return Figure(f"Predicted and actual change under {best}", caption, traces, axes, legend="tasks")


def _changes(group: Sequence[History], task: str) -> list[tuple[float, float, str]]:
    found = []
    for history in group:
        for place, entry in enumerate(history.entries):
            pair = [number(by_task(entry, key).get(task)) for key in ("predicted_change", "change")]
            if not math.isnan(sum(pair)):
                found.append((pair[0], pair[1], f"round {entry.get('round', place)}"))
    return found

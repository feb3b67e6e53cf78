"""Runs that were made in rounds (`mixer=ideal`, arXiv 2505.12762): what changing the volumes did to the reference loss.

Suffix: `D` rounds, counted from 0 here and from 1 where they are shown. Losses and benefits in nats, volumes in rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mixalign.reporting import plots
from mixalign.reporting.runs import Run, number
from mixalign.reporting.statistics import Paired, Score
from mixalign.reporting.table import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CAPTION", "History", "Table", "histories", "round_paths", "sentences", "settings_table", "tasks_table"]

CAPTION = (
    "Left the reference loss after every round, mean over seeds with one standard error; a ring marks the round that "
    "was kept, larger the more seeds kept it. Right the volumes under the setting with the lowest loss, as multiples "
    "of the first round's. A hollow point lacks seeds that had ended before."
)
DEFINITION = (
    "Benefit is how far the reference loss is estimated to fall, in nats for each unit of relative growth of a task's "
    "volume (above zero: more of the task helps; signs and ratios are surer than the scale), and confidence is the "
    "probability, from 0.5 to 1, that its sign is right, found by resampling rows."
)


@dataclass(frozen=True)
class History:
    """The rounds of one seed, as `eval.json` has them.

    Attributes:
        entries: One a round; empty where the file is damaged.
        kept: Place of the round whose model was kept.
    """

    entries: tuple[dict[str, Any], ...]
    kept: int

    @property
    def losses(self) -> tuple[float, float]:
        """Mean reference loss of the first round and of the kept one; NaN when unknown."""
        return _value(self.entries[0], "mean_reference_loss"), _value(self.entries[self.kept], "mean_reference_loss")


class Table(NamedTuple):
    """Titles, rows of plain text, and what one sees in them."""

    titles: list[str]
    rows: list[list[str]]
    caption: str


Groups = dict[str, list[History]]


def histories(runs: Sequence[Run]) -> Groups:
    """The runs that have rounds with a reference loss, by label in order; empty when there is none."""
    groups: Groups = {}
    for run in sorted(runs, key=lambda run: (run.label, run.seed)):
        history = _history(run.eval)
        if history is not None:
            groups.setdefault(run.label, []).append(history)
    return groups


def sentences(groups: Groups) -> list[str]:
    """The setting with the lowest loss, where the first round was the best, and what benefit and confidence are."""
    best = _best(groups)
    told = [f"Lowest reference loss after the kept round: {best}, {_kept(groups[best]).mean:.3f} nats."]
    unmoved = {label: sum(h.kept == 0 for h in group) for label, group in groups.items()}
    where = [f"{label} ({count} of {_seeds(groups[label])})" for label, count in unmoved.items() if count]
    if where:
        told.append(f"The first round, with all volumes unchanged, was the best under {', '.join(where)}.")
    return [*told, DEFINITION]


def settings_table(groups: Groups) -> Table:
    """One row a label: the reference loss before and after the volumes were changed."""
    titles = ["mixer", "seeds", "first round", "kept round", "difference", "rounds trained", "ended early"]
    caption = (
        "Mean reference loss in nats, mean \u00b1 standard error over seeds; the difference, kept minus first round, "
        "is taken within each seed. The kept round is the one with the lowest loss, so the difference is never above "
        "zero, and chance alone makes it negative: the scores on the test rows tell whether it holds."
    )
    return Table(titles, [_setting(label, group) for label, group in groups.items()], caption)


def tasks_table(groups: Groups) -> Table:
    """One row a task, under the label with the lowest reference loss: volumes and benefits of every round."""
    best = _best(groups)
    group = groups[best]
    entries = [entry for history in group for entry in history.entries]
    tasks = dict.fromkeys(task for e in entries for key in ("volumes", "benefit") for task in _by_task(e, key))
    volume = {task: _over_seeds(group, "volumes", task) for task in tasks}
    benefit = {task: _over_seeds(group, "benefit", task) for task in tasks}
    rounds = range(max(len(history.entries) for history in group))
    measured = [d for d in rounds if any(benefit[task][d].n for task in tasks)]
    titles = ["task", *(f"volume, round {d + 1}" for d in rounds), *(f"benefit, round {d + 1}" for d in measured)]
    rows = [
        [
            task,
            *(_shown(score, ",.0f") for score in volume[task]),
            *(_shown(benefit[task][d], "+.3g") for d in measured),
            _shown(Score.of([_value(entry, "confidence", task) for entry in entries]), ".3f"),
            _agreement(entries, task),
        ]
        for task in tasks
    ]
    caption = (
        f"{best}, {_seeds(group)}: means over the seeds that trained the round; volumes in rows, benefits in nats. "
        "Confidence is the mean over seeds and rounds. The last column counts the seeds' measurements, one a round, in "
        "which the curvature `identity`, a plain product of gradients, gives the same sign."
    )
    return Table([*titles, "confidence", "identity agrees"], rows, caption)


@plots._styled
def round_paths(runs: Sequence[Run]) -> "Figure":
    """Left the mean reference loss after every round, one line a label; right every task's volume under the best.

    Args:
        runs: All that the page shows, some of them with rounds: they fix the colours of the tasks. Of more than
            twenty tasks the 19 with the largest share are drawn, and the title says so.
    """
    groups, tasks = histories(runs), plots._shown_tasks(runs)
    best = _best(groups)
    figure = plots._figure(10.4, max(4.2, 0.2 * len(tasks) + 1.6))
    left, right = figure.subplots(1, 2)
    _losses(left, groups)
    left.set_title("Reference loss (nats)")
    columns = max(1, 130 // (max(map(len, groups)) + 8))  # the figure is some 130 letters wide
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=columns, fontsize=9)
    _volumes(right, groups[best], tasks)
    which = "the 19 largest tasks" if plots.OTHERS in tasks else "each task"
    right.set_title(f"Volume of {which}, first round = 1\n{plots._wrapped(best, 50)}")
    for ax in (left, right):
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        ax.set_xlabel("round")
        ax.grid(axis="y")
    return figure


def _history(scores: dict[str, Any]) -> History | None:
    """The rounds in an `eval.json`; None when none has a loss."""
    told = scores.get("rounds")
    entries = tuple(entry if isinstance(entry, dict) else {} for entry in told) if isinstance(told, list) else ()
    losses = {d: _value(entry, "mean_reference_loss") for d, entry in enumerate(entries)}
    known = [d for d, loss in losses.items() if not math.isnan(loss)]
    named = [d for d in known if entries[d].get("round", -1) == scores.get("best_round")]
    return History(entries, (named or [min(known, key=losses.__getitem__)])[0]) if known else None


def _by_task(entry: dict[str, Any], key: str) -> dict[str, Any]:
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


def _value(entry: dict[str, Any], key: str, task: str | None = None) -> float:
    """A number of a round, or of a task in it; NaN when it is unknown."""
    return number(entry.get(key) if task is None else _by_task(entry, key).get(task))


def _over_seeds(group: Sequence[History], key: str, task: str | None = None) -> list[Score]:
    """One score a round, over the seeds that have it."""
    rounds = range(max(len(history.entries) for history in group))
    return [Score.of([_value(e, key, task) for h in group for e in h.entries[d : d + 1]]) for d in rounds]


def _kept(group: Sequence[History]) -> Score:
    return Score.of([history.losses[1] for history in group])


def _best(groups: Groups) -> str:
    """The label with the lowest reference loss after the kept round, mean over seeds."""
    return min(groups, key=lambda label: _kept(groups[label]).mean)


def _seeds(group: Sequence[History]) -> str:
    return f"{len(group)} seed{'' if len(group) == 1 else 's'}"


def _shown(score: Score, how: str) -> str:
    return f"{score.mean:{how}}" if score.n else "-"


def _setting(label: str, group: Sequence[History]) -> list[str]:
    first, kept = zip(*(history.losses for history in group), strict=True)
    difference = signed(Paired.between(kept, first))
    rounds = f"{np.mean([len(history.entries) for history in group]):.3g}"
    early = sum(any(entry.get("stopped") for entry in history.entries) for history in group)
    return [
        label,
        str(len(group)),
        str(Score.of(first)),
        str(_kept(group)),
        difference,
        rounds,
        f"{early}/{len(group)}",
    ]


def _agreement(entries: Sequence[dict[str, Any]], task: str) -> str:
    """In how many measurements `identity` gives a task's benefit the same sign; its own measurements do not count."""
    others = [entry for entry in entries if entry.get("curvature") != "identity"]
    products = [_value(entry, "benefit", task) * _value(entry, "identity", task) for entry in others]
    known = [product for product in products if not math.isnan(product)]
    return f"{sum(product > 0 for product in known)}/{len(known)}" if known else "-"


def _losses(ax: "Axes", groups: Groups) -> None:
    """A line a label, a little aside of the others, in colours that are no task's."""
    import matplotlib

    colours = (
        matplotlib.colormaps["viridis"](np.linspace(0.0, 0.75, len(groups))) if len(groups) > 1 else [plots.ADAPTIVE]
    )
    aside = min(0.05, 0.3 / len(groups)) * (np.arange(len(groups)) - (len(groups) - 1) / 2)
    for (label, group), colour, shift in zip(groups.items(), colours, aside, strict=True):
        scores, kept = _over_seeds(group, "mean_reference_loss"), [history.kept for history in group]
        mean_D, error_D = np.array([(score.mean, score.error) for score in scores]).T
        at_D = np.arange(1, len(scores) + 1) + shift
        ax.errorbar(at_D, mean_D, np.nan_to_num(error_D), fmt="none", ecolor=colour, elinewidth=1.2)
        _line(ax, at_D, mean_D, [score.n == len(group) for score in scores], color=colour, label=label)
        size_D = [60 + 120 * kept.count(d) / len(kept) if d in kept else 0 for d in range(len(scores))]
        ax.scatter(at_D, mean_D, size_D, facecolors="none", edgecolors=[colour], linewidths=1.4)
    ax.margins(x=0.08, y=0.1)


def _line(ax: "Axes", at_D: np.ndarray, value_D: np.ndarray, whole_D: Sequence[bool], **style: Any) -> None:
    """Points joined by a line; hollow where some of the seeds have none."""
    ax.plot(at_D, value_D, lw=1.7, **style)
    fill = [style["color"] if whole else "white" for whole in whole_D]
    ax.scatter(at_D, value_D, 18, color=fill, edgecolors=[style["color"]], zorder=3)


def _volumes(ax: "Axes", group: Sequence[History], tasks: Sequence[str]) -> None:
    """A line a task, named at its end; seeds of one setting begin with the same volumes."""
    ax.axhline(1.0, color=plots.MUTED, lw=0.8, ls=":")
    ends: list[tuple[float, float, int]] = []
    for index, task in enumerate(tasks):
        scores = _over_seeds(group, "volumes", task)
        growth_D = np.array([score.mean / (scores[0].mean or math.nan) for score in scores])
        known_D = np.flatnonzero(np.isfinite(growth_D))
        if known_D.size:
            style = {"color": plots._colour(index, tasks), "ls": "--" if index >= len(plots.PALETTE) else "-"}
            whole_D = [score.n == len(group) for score in scores]
            _line(ax, np.arange(1, len(scores) + 1), growth_D, whole_D, **style)
            ends.append((growth_D[known_D[-1]], known_D[-1] + 1.0, index))
    _name_ends(ax, sorted(ends), tasks)


def _name_ends(ax: "Axes", ends: Sequence[tuple[float, float, int]], tasks: Sequence[str]) -> None:
    """Names and last values to the right of ascending ends (value, round, task), apart where they would overlap."""
    low, high = ax.get_ylim()
    gap = min(0.065, 1.0 / max(len(ends), 1))
    places = plots._spread(np.array([(value - low) / (high - low) for value, _, _ in ends]), gap)
    for (value, at, index), place in zip(ends, places, strict=True):
        line = {"arrowstyle": "-", "color": plots._colour(index, tasks), "lw": 0.8, "shrinkA": 1, "shrinkB": 3}
        line |= {"relpos": (0.0, 0.5)}  # to the left end of the name
        style: dict[str, Any] = {"textcoords": "axes fraction", "va": "center", "arrowprops": line}
        text = f"{tasks[index]} \u00d7{value:.2f}"
        ax.annotate(text, (at, value), (1.1, place), fontsize=9 if gap > 0.06 else 8, **style)

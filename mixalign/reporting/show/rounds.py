"""Runs that were made in rounds, in sentences and tables: what changing the volumes did to the target loss.

Rounds are counted from 0, the one on the volumes as they are; losses and benefits in nats, volumes in rows.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mixalign.reporting.judge.rounds import Groups, History, best_label, by_task, kept_loss, over_seeds, value_of
from mixalign.reporting.judge.statistics import Paired, Score
from mixalign.reporting.show.tables import Table
from mixalign.terminal import counted

__all__ = ["CAPTION", "has_one", "sentences", "settings_table", "tasks_table"]

CAPTION = (
    "Left the target loss after every round, mean over seeds with one standard error; a ring marks the round that "
    "was kept, larger the more seeds kept it. Right the volumes under the setting with the lowest loss, as multiples "
    "of round 0's. A hollow point lacks seeds that had ended before."
)
DEFINITION = (
    "Benefit is how far the target loss is estimated to fall, in nats for each unit of relative growth of a task's "
    "volume (above zero: more of the task helps; signs and ratios are surer than the scale), and confidence is the "
    "probability, from 0.5 to 1, that its sign is right, found by resampling rows."
)


def sentences(groups: Groups) -> list[str]:
    """The setting with the lowest loss, where round 0 was the best, and what benefit and confidence are."""
    best = best_label(groups)
    words = ["Only round 0 was trained, on the volumes as they are: nothing was changed."] if has_one(groups) else []
    words += [f"Lowest target loss after the kept round: {best}, {kept_loss(groups[best]).mean:.3f} nats."]
    unmoved = {label: sum(h.kept == 0 for h in group) for label, group in groups.items()}
    where = [f"{label} ({count} of {counted(len(groups[label]), 'seed')})" for label, count in unmoved.items() if count]
    if where and not has_one(groups):
        words.append(f"Round 0, with all volumes unchanged, was the best under {', '.join(where)}.")
    return [*words, DEFINITION]


def has_one(groups: Groups) -> bool:
    """Whether no run came to a second round, so that there is no path to draw."""
    return all(len(history.entries) < 2 for group in groups.values() for history in group)


def settings_table(groups: Groups) -> Table:
    """One row a label: the target loss before and after the volumes were changed."""
    titles = ["mixer", "seeds", "round 0", "kept round", "difference", "rounds trained", "ended early"]
    caption = (
        "Mean target loss in nats, mean \u00b1 standard error over seeds; the difference, kept minus round 0, "
        "is taken within each seed. The kept round is the one with the lowest loss, so the difference is never above "
        "zero, and chance alone makes it negative: the scores on the test rows tell whether it holds."
    )
    return Table(titles, [_setting(label, group) for label, group in groups.items()], caption)


def tasks_table(groups: Groups) -> Table:
    """One row a task, under the label with the lowest target loss: volumes and benefits of every round."""
    best = best_label(groups)
    group = groups[best]
    entries = [entry for history in group for entry in history.entries]
    tasks = dict.fromkeys(task for e in entries for key in ("volumes", "benefit") for task in by_task(e, key))
    volume = {task: over_seeds(group, "volumes", task) for task in tasks}
    benefit = {task: over_seeds(group, "benefit", task) for task in tasks}
    rounds = range(max(len(history.entries) for history in group))
    measured = [d for d in rounds if any(benefit[task][d].n for task in tasks)]
    titles = ["task", *(f"volume, round {d}" for d in rounds), *(f"benefit, round {d}" for d in measured)]
    rows = [
        [
            task,
            *(_shown(score, ",.0f") for score in volume[task]),
            *(_shown(benefit[task][d], "+.3g") for d in measured),
            _shown(Score.of([value_of(entry, "confidence", task) for entry in entries]), ".3f"),
            _agreement(entries, task),
        ]
        for task in tasks
    ]
    caption = (
        f"{best}, {counted(len(group), 'seed')}: means over the seeds that trained the round; volumes in rows, "
        "benefits in nats. Confidence is the mean over seeds and rounds. The last column counts the seeds' "
        "measurements, one a round, in which the curvature `identity`, a plain product of gradients, gives the same "
        "sign."
    )
    return Table([*titles, "confidence", "identity agrees"], rows, caption)


def _shown(score: Score, spec: str) -> str:
    return f"{score.mean:{spec}}" if score.n else "-"


def _setting(label: str, group: Sequence[History]) -> list[str]:
    first, kept = zip(*(history.losses for history in group), strict=True)
    difference = Paired.between(kept, first).signed
    rounds = f"{np.mean([len(history.entries) for history in group]):.3g}"
    early = sum(any(entry.get("stopped") for entry in history.entries) for history in group)
    return [
        label,
        str(len(group)),
        str(Score.of(first)),
        str(kept_loss(group)),
        difference,
        rounds,
        f"{early}/{len(group)}",
    ]


def _agreement(entries: Sequence[dict[str, Any]], task: str) -> str:
    """In how many measurements `identity` gives a task's benefit the same sign; its own measurements do not count."""
    others = [entry for entry in entries if entry.get("curvature") != "identity"]
    products = [value_of(entry, "benefit", task) * value_of(entry, "identity", task) for entry in others]
    known = [product for product in products if not math.isnan(product)]
    return f"{sum(product > 0 for product in known)}/{len(known)}" if known else "-"

"""Runs that were made in rounds (`mixer=ideal`, arXiv 2505.12762), as their `eval.json` has them, over seeds.

Losses and benefits in nats, volumes in rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixalign.reporting.judge.statistics import Score
from mixalign.reporting.read.files import number
from mixalign.reporting.read.runs import Run

__all__ = ["LOSS", "Groups", "History", "best_label", "by_task", "histories", "kept_loss", "over_seeds", "value_of"]


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
        """Mean target loss of round 0 and of the kept one; NaN when unknown."""
        first, kept = (value_of(self.entries[d], LOSS) for d in (0, self.kept))
        return first, kept


Groups = dict[str, list[History]]
LOSS = "mean_target_loss"


def histories(runs: Sequence[Run]) -> Groups:
    """The runs that have rounds with a target loss, by label in order; empty when there is none."""
    groups: Groups = {}
    for run in sorted(runs, key=lambda run: (run.label, run.seed)):
        history = _history(run.eval)
        if history is not None:
            groups.setdefault(run.label, []).append(history)
    return groups


def _history(scores: dict[str, Any]) -> History | None:
    """The rounds in an `eval.json`; None when none has a loss."""
    rounds = scores.get("rounds")
    rounds = rounds if isinstance(rounds, list) else []
    entries = tuple(_renamed(entry) if isinstance(entry, dict) else {} for entry in rounds)
    losses = {d: value_of(entry, LOSS) for d, entry in enumerate(entries)}
    known = [d for d, loss in losses.items() if not math.isnan(loss)]
    named = [d for d in known if entries[d].get("round", -1) == scores.get("best_round")]
    return History(entries, (named or [min(known, key=losses.__getitem__)])[0]) if known else None


def _renamed(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry with today's names: older versions wrote `reference_loss` for `target_loss`."""
    return {key.replace("reference_loss", "target_loss"): value for key, value in entry.items()}


def by_task(entry: dict[str, Any], key: str) -> dict[str, Any]:
    """Numbers of a round by task; empty where the file has none."""
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


def value_of(entry: dict[str, Any], key: str, task: str | None = None) -> float:
    """A number of a round, or of a task in it; NaN when it is unknown."""
    return number(entry.get(key) if task is None else by_task(entry, key).get(task))


def over_seeds(group: Sequence[History], key: str, task: str | None = None) -> list[Score]:
    """One score a round, over the seeds that have it: of a number of the round, or of a task in it."""
    rounds = range(max(len(history.entries) for history in group))
    return [Score.of([value_of(e, key, task) for h in group for e in h.entries[d : d + 1]]) for d in rounds]


def kept_loss(group: Sequence[History]) -> Score:
    """Mean target loss of the kept rounds."""
    return Score.of([history.losses[1] for history in group])


def best_label(groups: Groups) -> str:
    """The label with the lowest target loss after the kept round, mean over seeds."""
    return min(groups, key=lambda label: kept_loss(groups[label]).mean)

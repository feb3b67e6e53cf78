"""The claims of AutoMixAlign and IDEAL as differences between runs, and what their intervals say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

__all__ = ["Claim", "claims", "rank_correlation", "trainings", "values_of", "verdict"]

SEEN, NOT_SEEN, OPEN = "seen", "not seen", "not decidable at this size"
AMA, LAST = ("ama_r", "ama_s", "ama_e", "ama_s mixer.wrap.floor=0.4"), "ideal m=0.15, round 2"
RAISED = (
    0.056  # relative, by two rounds over joint training after one epoch: the paper's table, average over benchmarks
)
Values = Sequence[Any]  # by seed; None where a run is not finished


@dataclass(frozen=True)
class Claim:
    """That a difference has a sign, or a size.

    Attributes:
        mine, theirs: the values whose difference it is about, by seed.
        higher: whether it is claimed to be above zero, and not below.
        size: what it is claimed to be; None: only its sign.
    """

    text: str
    measure: str
    mine: Values
    theirs: Values
    higher: bool = False
    size: float | None = None


def claims(name: str, part: Mapping[str, Any]) -> list[Claim]:
    """Those of the paper that a part is about."""
    return _claims_of_ama(part) if name == "ama" else _claims_of_ideal(part)


def _claims_of_ama(part: Mapping[str, Any]) -> list[Claim]:
    worst = {label: values_of(part, label, "worst_excess") for label in part["scores"]}
    merges = {label: values for label, values in worst.items() if label.startswith("merge_")}
    measured = {label: mean(known) for label, values in merges.items() if (known := _known(values))}
    best = min(measured, key=measured.__getitem__, default="merge")
    found = []
    for title, other in (("the total loss", "proportional"), ("uniform sampling", "uniform"), ("merging", best)):
        words = f"beats {title}" + f" (`{best}`, the best merge)" * (other == best)
        found += [
            Claim(
                f"`{label}` {words}",
                "worst excess",
                values_of(part, label, "worst_excess"),
                values_of(part, other, "worst_excess"),
            )
            for label in AMA
        ]
    for label in ("ama_r", "ama_s"):
        along = [one and one["worst_mean_excess"] for one in part["objective_along"].get(label, [])]
        first, last = ([one and one[place] for one in along] for place in (0, -1))
        found.append(Claim(f"`{label}` converges", "worst mean excess, last minus first validation", last, first))
    return found


def _claims_of_ideal(part: Mapping[str, Any]) -> list[Claim]:
    def claim(text: str, mine: str, theirs: str, measure: str = "mean_loss", **more: Any) -> Claim:
        return Claim(
            text, measure.replace("_", " "), values_of(part, mine, measure), values_of(part, theirs, measure), **more
        )

    def last_round(label: str) -> str:
        """The one that all seeds may have: `quick` has fewer of the variants beside the main one."""
        numbers = (name.removeprefix(f"{label}, round ") for name in part["scores"])
        return max((n for n in numbers if n.isdigit()), default="2")

    def beside(text: str, label: str) -> Claim:
        number = last_round(label)
        rounds = "round" if number == "1" else "rounds"
        return claim(f"{text}, after {number} {rounds}", f"ideal m=0.15, round {number}", f"{label}, round {number}")

    first, start, score = "ideal m=0.15, round 0", "ideal m=0.15, random start", "accuracy"
    number = last_round(start)
    joint = _known(values_of(part, first, score))
    size = RAISED * mean(joint) if joint else None
    found = [
        claim("two rounds help: round 2 against joint training", LAST, first),
        claim("two rounds help: round 2 against round 1", LAST, "ideal m=0.15, round 1"),
        claim("two rounds raise the average score by 5.6 %", LAST, first, score, higher=True, size=size),
        claim(
            f"a random start can be improved: round {number} against its start",
            f"{start}, round {number}",
            f"{start}, round 0",
        ),
    ]
    found += [
        claim(f"volume is not the key: IDEAL against {other}", LAST, other)
        for other in (f"{mixer} at IDEAL's volume" for mixer in ("proportional", "doremi", "doge"))
    ]
    longer = "longer training sharpens the imbalance: three epochs against one"
    found.append(claim(longer, "joint, three epochs", "joint", "imbalance", higher=True))
    found += [beside(f"m = .15 is best: against m = {m}", f"ideal m={m}") for m in ("0.1", "0.3")]
    found += [
        beside(f"the curvature matters: EK-FAC against {title}", f"ideal m=0.15, {kind}")
        for kind, title in (("identity", "none"), ("K-FAC", "K-FAC"))
    ]
    ranks = _ranks_by_seed(part)
    zeros = [None if x is None else 0.0 for x in ranks]
    found.append(Claim("predicted changes are in the order of the actual ones", "rank correlation", ranks, zeros, True))
    return found


def verdict(claim: Claim, low: float, high: float) -> str:
    """What a corrected interval says of a claim.

    Seen: all of it is on the side that is claimed. Not seen: all of it is on the other side, or falls short of the size
    that is claimed.
    """
    if not claim.higher:
        low, high = -high, -low
    if high < 0 or (claim.size is not None and high < abs(claim.size)):
        return NOT_SEEN
    return SEEN if low > 0 else OPEN


def values_of(part: Mapping[str, Any], label: str, measure: str) -> Values:
    if measure == "imbalance":
        return _imbalance(part, label)
    return part["scores"].get(label, {}).get(measure) or [None] * part["seeds"]


def _imbalance(part: Mapping[str, Any], label: str) -> Values:
    """How much further the worst task is above its single-domain specialist than all are on average, nats."""
    alone = {task: values_of(part, f"only {task}", "loss") for task in part.get("rows", {})}
    found: Values = []
    for seed, loss in enumerate(values_of(part, label, "loss")):
        own = {task: values[seed] for task, values in alone.items()}
        whole = loss is not None and own and None not in own.values()
        gaps = [loss[task] - own[task][task] for task in own] if whole else []
        found.append(max(gaps) - mean(gaps) if gaps else None)
    return found


def _known(values: Values) -> list[Any]:
    return [x for x in values if x is not None]


def trainings(part: Mapping[str, Any], seed: int | None = None) -> list[list[tuple[float, float]]]:
    """Predicted and actual changes by target, one list a training that followed a prediction of some change."""
    runs = [run for found in part["rounds"].values() for n, run in enumerate(found) if run and seed in (None, n)]
    entries = [one for run in runs for one in run if any(one.get("predicted_change", {}).values())]
    return [[(one["predicted_change"][t], one["change"][t]) for t in one["change"]] for one in entries]


def _ranks_by_seed(part: Mapping[str, Any]) -> Values:
    """The mean rank correlation within a training, by seed: trainings of one seed share too much to count apart."""
    found = [[rank_correlation(one) for one in trainings(part, seed)] for seed in range(part["seeds"])]
    known = [[rho for rho in one if rho is not None] for one in found]
    return [mean(one) if one else None for one in known]


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's, equal values sharing their rank; None where one side does not vary."""
    if len(pairs) < 2:
        return None
    ranks = [_ranks([pair[side] for pair in pairs]) for side in (0, 1)]
    if any(np.ptp(side) == 0 for side in ranks):
        return None
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(other < x for other in values) + sum(other == x for other in values) / 2 for x in values]

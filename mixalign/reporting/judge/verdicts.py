"""What the shared seeds say of every method against the static mixtures, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mixalign.reporting.judge.statistics import LEVEL, Paired, holm

__all__ = ["MIN_SEEDS", "Statement", "Verdict", "judge", "statements"]

Statement = tuple[str, str]  # a kind of verdict, or "summary", and a sentence
MIN_SEEDS = 3  # fewer shared seeds give an interval that nothing should rest on
KINDS = {
    "better": "Better than {other} on {title}",
    "no better": "Not to be told from {other} on {title}",
    "worse": "Worse than {other} on {title}",
}


@dataclass(frozen=True)
class Verdict:
    """One method against one static mixture, by one score that is better when it is lower.

    Attributes:
        method: `adaptive` or `merge`.
        kind: "better" or "worse" when the paired difference is clear of zero after the correction, that is with an
            adjusted p below .05; "no better" when it is not; "too few" seeds to tell.
        adjusted_p: the difference's p value by Holm's correction for all methods against this mixture, of which those
            with the same numbers count once; NaN with too few seeds.
    """

    label: str
    other: str
    metric: str
    method: str
    kind: str
    pair: Paired
    adjusted_p: float


def judge(pairs: Mapping[str, Paired], other: str, metric: str, methods: Mapping[str, str]) -> list[Verdict]:
    """One verdict for each of these differences to a static mixture.

    Args:
        pairs: by label. `methods`: `adaptive` or `merge`, by label.
    """
    distinct = list(dict.fromkeys(pair for pair in pairs.values() if pair.n >= MIN_SEEDS))
    adjusted = dict(zip(distinct, holm([pair.p for pair in distinct]), strict=True))
    return [
        Verdict(label, other, metric, methods[label], _kind(pair, p), pair, p)
        for label, pair in pairs.items()
        for p in [adjusted.get(pair, float("nan"))]
    ]


def _kind(pair: Paired, adjusted_p: float) -> str:
    if pair.n < MIN_SEEDS:
        return "too few"
    clear = adjusted_p < 1 - LEVEL
    return "better" if clear and pair.mean < 0 else "worse" if clear and pair.mean > 0 else "no better"


def statements(verdicts: Sequence[Verdict], best: str, mean: str, title: str, shown: Sequence[str]) -> list[Statement]:
    """The verdicts by one score in words.

    Args:
        best: the static mixture with the lowest mean; it comes first, and is what many comparisons are counted for.
        mean: its score, as text.
        title: what the score is called.
        shown: static mixtures whose differences are shown elsewhere; those to another best one are put in the sentence.
    """
    sentences: list[Statement] = []
    clear = [v for v in verdicts if v.kind != "too few"]
    for other in sorted(dict.fromkeys(v.other for v in clear), key=lambda other: other != best):
        group = [v for v in clear if v.other == other]
        if other == best:
            sentences.append(("summary", _summary(group, best, mean, title)))
        sentences += _by_kind(group, other, title, numbers=other == best and best not in shown)
        if other == best and len(group) > 1:
            sentences.append(("summary", _many(group, best)))
    return sentences + _unclear(verdicts)


def _summary(group: Sequence[Verdict], best: str, mean: str, title: str) -> str:
    """How many of each kind of method beat the best static mixture."""
    parts = [f"The best static mixture on {title} is {best}, {mean}."]
    for method, noun in (("adaptive", "adaptive method"), ("merge", "merge")):
        kinds = [v.kind for v in group if v.method == method]
        if kinds:
            better, level, worse = (kinds.count(kind) for kind in KINDS)
            beat = f"{better} beat{'s' if better == 1 else ''}" if better else "none beats"
            rest = [f"{level} cannot be told from it"] * (level > 0)
            rest += [f"{worse} {'is' if worse == 1 else 'are'} worse"] * (worse > 0)
            counts = ", ".join([f"{beat} it", *rest])
            parts.append(f"Of {len(kinds)} {noun}{'s' if len(kinds) > 1 else ''} {counts}.")
    return " ".join(parts)


def _by_kind(group: Sequence[Verdict], other: str, title: str, numbers: bool) -> list[Statement]:
    sentences: list[Statement] = []
    for kind, words in KINDS.items():
        names = [_numbers(v) if numbers else v.label for v in group if v.kind == kind]
        if names:
            sentences.append((kind, f"{words.format(other=other, title=title)}: {', '.join(names)}."))
    return sentences


def _numbers(v: Verdict) -> str:
    return f"{v.label} {v.pair.mean:+.3f} {v.pair.interval}"


def _many(group: Sequence[Verdict], other: str) -> str:
    """What the words are corrected for, and what single intervals would have shown."""
    unsure = [v for v in group if v.kind == "no better"]
    left = {"below": [v.label for v in unsure if v.pair.high < 0], "above": [v.label for v in unsure if v.pair.low > 0]}
    named = "; ".join(f"{side}: {', '.join(left[side]) or 'none'}" for side in left)
    number = len({v.pair for v in group})
    twins = f" ({len(group) - number} of the {len(group)} methods have the numbers of another)" * (number < len(group))
    chance = (1 - LEVEL) * number
    return (
        f"Many comparisons: the words follow Holm's correction for {number} difference{'s' * (number > 1)} to {other}"
        f"{twins}. If there were none, {chance:.2g} of their {LEVEL:.0%} intervals would leave zero out by chance; "
        f"those that do and do not count are {named}."
    )


def _unclear(verdicts: Sequence[Verdict]) -> list[Statement]:
    """Which methods share too few seeds with which mixtures."""
    labels: dict[tuple[str, ...], list[str]] = {}
    for label in dict.fromkeys(v.label for v in verdicts):
        few = {v.other: v.pair.n for v in verdicts if v.label == label and v.kind == "too few"}
        if few:
            labels.setdefault(tuple(few), []).append(f"{label} ({max(few.values())} shared)")
    start = f"Too few seeds to tell, {MIN_SEEDS} shared are wanted"
    return [("too few", f"{start}: {', '.join(who)} against {', '.join(others)}.") for others, who in labels.items()]

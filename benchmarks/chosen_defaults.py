"""Which mixer and which export `mixalign train` has by default, as they follow from the arena.

The rule was written down before the fourth seed and the exports were looked at. Of the mixers that are ahead of
uniform sampling in worst excess (pooled over every seed of every set-up, the 95 % interval leaves 0 out) and lose no
set-up to it after Holm's correction, the one with the lowest worst excess. Of the exports that are not told from the
one with the lowest worst excess, the first of EXPORTS: the mean as one candidate of the validations goes first, as by
them it is never worse than a step.

benchmarks/results/exports.json is made by

    python benchmarks/arena.py quick --json benchmarks/results/exports.json --mixers uniform ama_e \\
        "ama_e export=best average_last=0.3" "ama_e export=best" "ama_e export=last"
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tables import between, code, corrected, markdown

from mixalign.reporting.judge.statistics import LEVEL, Paired

__all__ = ["BASELINE", "EXPORTED", "EXPORTS", "ahead_of", "chosen_export", "chosen_mixer", "exports_table"]

BASELINE = "uniform"
EXPORTED = Path(__file__).parent / "results" / "exports.json"
AVERAGED = "ama_e"  # the set-ups themselves export the mean
EXPORTS = ("ama_e export=best average_last=0.3", AVERAGED, "ama_e export=best", "ama_e export=last")
MEASURES = {
    "worst_excess": "worst excess",
    "mean_excess": "mean excess",
    "worst_gap": "worst gap",
    "mean_loss": "mean loss",
}


def chosen_mixer(results: Mapping[str, Any]) -> str | None:
    """The label of the default mixer; None where no mixer is ahead of uniform sampling."""
    others = [label for label in results["mixers"] if label != BASELINE]
    lost = _lost(results, others)
    pooled = {label: ahead_of(results, label, BASELINE) for label in others if label not in lost}
    able = {label: pair.mean for label, pair in pooled.items() if pair is not None and pair.high < 0}
    return min(able, key=lambda label: able[label], default=None)


def chosen_export(results: Mapping[str, Any]) -> str:
    """The label of EXPORTS whose export is the default."""
    known = [label for label in EXPORTS if label in results["mixers"]]
    over = {label: pair for label in known if (pair := ahead_of(results, label, AVERAGED))}
    lowest = min(over, key=lambda label: over[label].mean)
    return next(label for label in known if label == lowest or _is_level(ahead_of(results, label, lowest)))


def exports_table(results: Mapping[str, Any]) -> str:
    """A line an export: minus the mean of the last weights, pooled over what is finished of both.

    The last line is the default against uniform sampling with the same export.
    """
    default, base = EXPORTS[0], EXPORTS[0].replace(AVERAGED, BASELINE)
    runs = [label for label in results["mixers"] if label not in (AVERAGED, BASELINE)]
    compared = [(label, BASELINE if label.startswith(BASELINE) else AVERAGED) for label in runs]
    lines = []
    for label, other in [*compared, *([(default, base)] if base in runs else [])]:
        pairs = [ahead_of(results, label, other, measure) for measure in MEASURES]
        cells = ["-" if pair is None else f"{pair.mean:+.3f} {pair.interval}" for pair in pairs]
        lines.append([code(label), code(other), *cells, str(pairs[0].n if pairs[0] else 0)])
    return markdown(["run", "minus", *MEASURES.values(), "pairs"], lines)


def ahead_of(results: Mapping[str, Any], label: str, other: str, measure: str = "worst_excess") -> Paired | None:
    """One run minus another one, every seed of every set-up a pair."""
    columns = [setup["scores"] for setup in results["setups"].values() if "scores" in setup]
    mine, theirs = ([x for scores in columns for x in scores[one][measure]] for one in (label, other))
    return between(mine, theirs)


def _is_level(pair: Paired | None) -> bool:
    return pair is not None and pair.low <= 0 <= pair.high


def _lost(results: Mapping[str, Any], labels: list[str]) -> set[str]:
    """Mixers that lose a set-up to uniform sampling, after the correction for all of them."""
    pairs = {}
    for name, setup in results["setups"].items():
        for label in labels if "scores" in setup else []:
            scores = setup["scores"]
            if pair := between(scores[label]["worst_excess"], scores[BASELINE]["worst_excess"]):
                pairs[name, label] = pair
    p_values = corrected(pairs)
    return {label for (name, label), pair in pairs.items() if pair.mean > 0 and p_values[name, label] < 1 - LEVEL}

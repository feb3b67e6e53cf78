"""The figures of docs/which_mixer.md, each filled in where the page names it.

A figure stands between `<!-- figure: WHERE; WHAT; ... -->` and `<!-- / -->`. arena_table.py and paper_table.py fill in
all of them, so that none is older than the tables. The words behind a difference follow Holm's correction.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tables import ROOT, between, corrected

from mixalign.reporting.judge.statistics import LEVEL, Paired, holm

__all__ = ["PAGE", "refill", "with_figures"]

RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "which_mixer.md"
MISSING = "not measured"


def refill() -> None:
    """Writes the page with the figures of the results."""
    PAGE.write_text(with_figures(PAGE.read_text()))


def with_figures(text: str) -> str:
    """The page with its figures.

    Raises:
        KeyError: when it names a kind of figure that there is not.
    """

    def fill(found: re.Match[str]) -> str:
        kind, *names = found[2].split("; ")
        return f"{found[1]}{KINDS[kind](*names)}{found[3]}"

    return re.sub(r"(<!-- figure: (.*?) -->).*?(<!-- / -->)", fill, text, flags=re.DOTALL)


def arena(label: str, measure: str) -> str:
    """A mixer minus uniform sampling over every seed of every set-up of the arena."""
    results = _read("arena")
    columns = [setup["scores"] for setup in results["setups"].values() if "scores" in setup]
    pairs = {}
    for one in [mixer for mixer in results["mixers"] if mixer != "uniform"]:
        mine, theirs = ([x for scores in columns for x in scores[name][measure]] for name in (one, "uniform"))
        if pair := between(mine, theirs):
            pairs[one] = pair
    same = {"ama_e": "ama_s mixer.entropy=0.1 mixer.eta=0.2"}  # before it had a name
    label = label if label in pairs else same.get(label, label)
    return _difference(pairs[label], corrected(pairs)[label]) if label in pairs else MISSING


def compare(label: str, baseline: str, measure: str) -> str:
    """A method of `make compare` minus a baseline."""
    rows = {row["label"]: row["differences"].get(baseline, {}).get(measure) for row in _read("compare_dpo")["rows"]}
    found = {one: Paired(**pair) for one, pair in rows.items() if pair}
    distinct = list(dict.fromkeys(found.values()))  # methods with the same numbers count once
    p_values = dict(zip(distinct, holm([pair.p for pair in distinct]), strict=True))
    return _difference(found[label], p_values[found[label]]) if label in found else MISSING


def ideal(variant: str) -> str:
    """A variant of `make evidence-ideal` minus joint training, by the mean loss."""
    losses = {name: [one["mean"] for one in found] for name, found in _read("evidence_ideal")["losses"].items()}
    pairs = {
        name: pair for name, values in losses.items() if name != "joint" and (pair := between(values, losses["joint"]))
    }
    return _difference(pairs[variant], corrected(pairs)[variant]) if variant in pairs else MISSING


def paper(part: str, text: str) -> str:
    """The verdict on a claim, with its figure."""
    from paper_claims import claims
    from paper_table import judged

    found = _read("paper")["parts"].get(part, {})
    if "scores" not in found:
        return MISSING
    lines = {claim.text: line for claim, line in judged(claims(part, found))}
    line = next((line for name, line in lines.items() if name.startswith(text)), None)
    return MISSING if line is None or line[2] == MISSING else f"{line[2]}: {line[0]} {line[1]}"


KINDS: dict[str, Callable[..., str]] = {"arena": arena, "compare": compare, "ideal": ideal, "paper": paper}


def _read(name: str) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return results


def _difference(pair: Paired, p: float) -> str:
    word = "not told from 0" if p >= 1 - LEVEL else "below 0" if pair.mean < 0 else "above 0"
    return f"{pair.mean:+.3f} {pair.interval}, {word}"

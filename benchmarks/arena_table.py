"""The tables of the arena, from benchmarks/results/arena.json into docs/evidence.md and docs/arena.md.

A cell is the mean difference to uniform sampling over the seeds, with the 95 % interval of the paired differences by
Student's t; `*`: it leaves zero out; `**`: so does Holm's correction for all cells of the table (p below .05).
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import which_mixer
from chosen_defaults import BASELINE, EXPORTED, MEASURES, ahead_of, exports_table
from tables import ROOT, between, code, corrected, difference, markdown
from tables import with_block as place

from mixalign.reporting.judge.statistics import LEVEL, Paired, Score, quantile

__all__ = ["MEASURES", "RESULTS", "all_tables", "documents", "pooled_table", "with_block"]

RESULTS = Path(__file__).parent / "results" / "arena.json"


def main() -> int:
    if not RESULTS.is_file():
        print(f"error: there is no {RESULTS}. Make it: make arena", file=sys.stderr)
        return 1
    results = json.loads(RESULTS.read_text())
    print(all_tables(results))
    for path, text in documents(results).items():
        path.write_text(text)
    which_mixer.refill()
    return 0


def documents(results: Mapping[str, Any]) -> dict[Path, str]:
    """docs/evidence.md and docs/arena.md with the tables of these results, where they have places for them."""
    blocks = {"docs/evidence.md": pooled_table(results), "docs/arena.md": all_tables(results)}
    texts = {ROOT / name: (ROOT / name).read_text() for name in blocks}
    texts = {path: with_block(text, blocks[path.relative_to(ROOT).as_posix()]) for path, text in texts.items()}
    exports = exports_table(json.loads(EXPORTED.read_text()))
    return {path: place(text, "exports", "arena_table.py", exports) for path, text in texts.items()}


def with_block(text: str, table: str) -> str:
    return place(text, "arena", "arena_table.py", table)


def all_tables(results: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    parts = [_said(results), pooled_table(results)]
    parts.append(f"Minus `{BASELINE}`'s, nats, every seed of every set-up a pair:\n\n{_over_all(results)}")
    for measure, title in MEASURES.items():
        parts.append(f"{title[0].upper()}{title[1:]} minus `{BASELINE}`'s, nats:\n\n{_by_setup(results, measure)}")
    skipped = [f"{name}: {s['skipped']}" for name, s in results["setups"].items() if "skipped" in s]
    return "\n\n".join(parts + ([f"Skipped: {'; '.join(skipped)}."] if skipped else []))


def _said(results: Mapping[str, Any]) -> str:
    setups = _ran(results)
    rows = min((setup["test_rows"] for setup in setups.values() if "test_rows" in setup), default=0)
    cpu = sum(x for s in setups.values() for scores in s["scores"].values() for x in scores["cpu_seconds"] if x)
    missing = sum(x is None for s in setups.values() for scores in s["scores"].values() for x in scores["mean_loss"])
    return (
        f"`make arena {'full=1' if results['form'] == 'full' else 'quick=1'}`: {len(setups)} set-ups, "
        f"{results['seeds']} seeds, {len(results['mixers'])} mixers, at least {rows:,} test rows a task; "
        f"{cpu / 60:.0f} CPU minutes of training, without references, specialists and evaluation."
        + f" {missing} runs are not finished, and left out with their pairs."
        * bool(missing)
    )


def pooled_table(results: Mapping[str, Any]) -> str:
    """A line a mixer: rank, standardised difference, and set-ups won and lost."""
    heads = ["mixer"]
    for title in (MEASURES["worst_excess"], MEASURES["mean_excess"], MEASURES["worst_gap"]):
        heads += [f"{title}: mean rank", "standardised difference", "won, lost"]
    lines = []
    for label in results["mixers"]:
        cells = [code(label)]
        for measure in ("worst_excess", "mean_excess", "worst_gap"):
            cells += _pooled(results, measure, label)
        lines.append(cells)
    return markdown(heads, lines)


def _pooled(results: Mapping[str, Any], measure: str, label: str) -> list[str]:
    setups = _ran(results)
    ranks = [_ranks(setup, measure, results["mixers"]).get(label) for setup in setups.values()]
    known = [rank for rank in ranks if rank is not None]
    rank = f"{mean(known):.1f}" if known else "-"
    if label == BASELINE:
        return [rank, "", ""]
    sizes = [d for setup in setups.values() if (d := _standardised(setup, measure, label)) is not None]
    pairs = _pairs(results, measure)
    p_values = corrected(pairs)
    mine = {setup: pair for (setup, other), pair in pairs.items() if other == label}
    won, lost = sum(pair.high < 0 for pair in mine.values()), sum(pair.low > 0 for pair in mine.values())
    sure = [pair.mean for setup, pair in mine.items() if p_values[setup, label] < 1 - LEVEL]
    count = f"{sum(x < 0 for x in sure)}, {sum(x > 0 for x in sure)} of {len(mine)}"
    if won or lost:
        count += f" (uncorrected {won}, {lost})"
    return [rank, _interval(Score.of(sizes)), count]


def _over_all(results: Mapping[str, Any]) -> str:
    """The mean difference over all pairs, its interval, and how many are better; large set-ups weigh no more."""
    lines = []
    for label in [label for label in results["mixers"] if label != BASELINE]:
        cells = [code(label)]
        for measure in MEASURES:
            pair = ahead_of(results, label, BASELINE, measure)
            cells.append("-" if pair is None else f"{pair.mean:+.3f} {pair.interval} ({pair.wins} of {pair.n})")
        lines.append(cells)
    return markdown(["mixer", *MEASURES.values()], lines)


def _by_setup(results: Mapping[str, Any], measure: str) -> str:
    others = [label for label in results["mixers"] if label != BASELINE]
    pairs, setups = _pairs(results, measure), _ran(results)
    p_values = corrected(pairs)
    lines = []
    for name, setup in setups.items():
        level = Score.of([math.nan if x is None else x for x in setup["scores"][BASELINE][measure]])
        cells = [f"`{name}`", f"{level.mean:.3f}"]
        for label in others:
            pair = pairs.get((name, label))
            cells.append("-" if pair is None else difference(pair, p_values[name, label]))
        lines.append(cells)
    return markdown(["set-up", BASELINE, *map(code, others)], lines)


def _pairs(results: Mapping[str, Any], measure: str) -> dict[tuple[str, str], Paired]:
    """Paired differences to uniform, of set-ups and mixers with two seeds in common and more."""
    found = {}
    for name, setup in _ran(results).items():
        theirs = setup["scores"][BASELINE][measure]
        for label in [label for label in results["mixers"] if label != BASELINE]:
            if pair := between(setup["scores"][label][measure], theirs):
                found[name, label] = pair
    return found


def _ranks(setup: Mapping[str, Any], measure: str, labels: Sequence[str]) -> dict[str, float]:
    """Rank of each mixer's mean over the seeds that all have; 1 is the lowest, equals share theirs."""
    columns = {label: setup["scores"][label][measure] for label in labels}
    whole = [n for n in range(len(columns[BASELINE])) if all(column[n] is not None for column in columns.values())]
    if not whole:
        return {}
    means = {label: mean(column[n] for n in whole) for label, column in columns.items()}
    below = {label: sum(other < value for other in means.values()) for label, value in means.items()}
    equal = {label: sum(other == value for other in means.values()) for label, value in means.items()}
    return {label: below[label] + (equal[label] + 1) / 2 for label in labels}


def _standardised(setup: Mapping[str, Any], measure: str, label: str) -> float | None:
    """Hedges' g to uniform: the difference of means over the pooled standard deviation over seeds, for few of them."""
    mine, theirs = setup["scores"][label][measure], setup["scores"][BASELINE][measure]
    both = [(a, b) for a, b in zip(mine, theirs, strict=True) if None not in (a, b)]
    if len(both) < 2:
        return None
    ours, base = [a for a, _ in both], [b for _, b in both]
    spread = math.sqrt((stdev(ours) ** 2 + stdev(base) ** 2) / 2)
    few = 1 - 3 / (8 * len(both) - 9)  # 1 - 3 / (4 df - 1) with df = 2 n - 2 (Hedges 1981)
    return few * (mean(ours) - mean(base)) / spread if spread else None


def _interval(score: Score) -> str:
    if score.n < 2:
        return "-" if not score.n else f"{score.mean:+.2f}"
    reach = quantile(LEVEL, score.n - 1) * score.error
    return f"{score.mean:+.2f} [{score.mean - reach:+.2f}, {score.mean + reach:+.2f}]"


def _ran(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: setup for name, setup in results["setups"].items() if "scores" in setup}


if __name__ == "__main__":
    sys.exit(main())

"""What the tables of arena_table.py and paper_table.py share: differences, their correction, Markdown, and places."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mixalign.reporting.judge.statistics import LEVEL, Paired, holm, quantile

__all__ = ["ROOT", "between", "code", "corrected", "corrected_intervals", "difference", "markdown", "with_block"]

ROOT = Path(__file__).resolve().parents[1]
Key = TypeVar("Key")
Values = Sequence[float | None]  # by seed; None where a run is not finished


def with_block(text: str, name: str, script: str, block: str) -> str:
    """The text with the block between its two marks."""
    marks = rf"(<!-- {name}: made by benchmarks/{script} -->\n).*?(<!-- end of {name} -->)"
    return re.sub(marks, lambda found: f"{found[1]}{block}\n{found[2]}", text, flags=re.DOTALL)


def between(mine: Values, theirs: Values, lower_is_better: bool = True) -> Paired | None:
    """Paired differences over the seeds that both have; None with fewer than two."""
    both = [(a, b) for a, b in zip(mine, theirs, strict=True) if a is not None and b is not None]
    return Paired.between(*zip(*both, strict=True), lower_is_better) if len(both) > 1 else None


def corrected(pairs: Mapping[Key, Paired]) -> dict[Key, float]:
    """Holm's p values."""
    return dict(zip(pairs, holm([pair.p for pair in pairs.values()]), strict=True))


def corrected_intervals(pairs: Mapping[Key, Paired]) -> dict[Key, tuple[float, float]]:
    """Intervals that leave zero out where Holm's correction says so at 5 %: each at the level that it is tested at.

    The smallest p value is tested at .05 / n, the next one at .05 / (n - 1) and so on, up to the first that fails; it
    and all behind it have its level.
    """
    intervals, failed = {}, False
    share = (1 - LEVEL) / max(1, len(pairs))
    for place, key in enumerate(sorted(pairs, key=lambda key: pairs[key].p)):
        pair = pairs[key]
        if not failed:
            share = (1 - LEVEL) / (len(pairs) - place)
            failed = pair.p >= share
        reach = quantile(1 - share, pair.n - 1) * pair.error
        intervals[key] = (pair.mean - reach, pair.mean + reach)
    return intervals


def difference(pair: Paired, p: float | None) -> str:
    """`-0.012 [-0.020, -0.004] *`; `*`: the interval leaves zero out; `**`: after the correction as well.

    Args:
        p: corrected; None where nothing should rest on the interval.
    """
    clear = p is not None and (pair.high < 0 or pair.low > 0)
    stars = " **" if p is not None and p < 1 - LEVEL else " *" * clear
    return f"{pair.mean:+.3f} {pair.interval}{stars.replace('*', chr(92) + '*')}"


def code(label: str) -> str:
    return f"`{label}`"


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

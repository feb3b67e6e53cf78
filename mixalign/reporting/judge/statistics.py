"""What a few seeds can say: means, paired differences with Student's intervals, and a correction for many of them.

Student's t is written out here, two finite sums and a bisection that the tests hold against tables and closed forms:
nothing else of the installation brings scipy, and 140 MB are much for two functions.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["LEVEL", "Paired", "Score", "coverage", "holm", "quantile"]

LEVEL = 0.95  # of intervals


@dataclass(frozen=True)
class Score:
    """A mean over `n` seeds and its standard error; NaN where there is none."""

    mean: float
    error: float
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> "Score":
        """Mean and sd(ddof=1) / sqrt(n) of the values that are not NaN."""
        known = [value for value in values if not math.isnan(value)]
        error = float(np.std(known, ddof=1)) / math.sqrt(len(known)) if len(known) > 1 else math.nan
        return Score(float(np.mean(known)) if known else math.nan, error, len(known))

    def __str__(self) -> str:
        if not self.n:
            return "-"
        return f"{self.mean:.3f}+-{self.error:.3f}" if self.n > 1 else f"{self.mean:.3f} (-)"


@dataclass(frozen=True)
class Paired(Score):
    """Differences seed by seed.

    Attributes:
        wins: seeds where this one is better than the other.
        low: lower end of the 95 % interval of the mean difference, by Student's t with n - 1 degrees of freedom;
            `high` the upper one; NaN with fewer than two seeds.
        p: probability of a mean at least as far from zero if there were no difference, by the same law.
    """

    wins: int
    low: float
    high: float
    p: float

    @staticmethod
    def between(mine: Sequence[float], theirs: Sequence[float], lower_is_better: bool = True) -> "Paired":
        """Of values in the same order of seeds; pairs with a NaN are left out."""
        differences = [a - b for a, b in zip(mine, theirs, strict=True)]
        sign = -1.0 if lower_is_better else 1.0
        wins = sum(sign * value > 0 for value in differences)
        score = Score.of(differences)
        if score.n < 2:
            return Paired(score.mean, score.error, score.n, wins, math.nan, math.nan, math.nan)
        reach = quantile(LEVEL, score.n - 1) * score.error
        ratio = abs(score.mean) / score.error if score.error else math.inf if score.mean else 0.0
        p = 1.0 - coverage(ratio, score.n - 1)
        return Paired(score.mean, score.error, score.n, wins, score.mean - reach, score.mean + reach, p)

    @property
    def signed(self) -> str:
        """`-0.146+-0.016`: the mean with its sign, and its standard error when there is one."""
        return "-" if not self.n else f"{self.mean:+.3f}+-{self.error:.3f}" if self.n > 1 else f"{self.mean:+.3f} (-)"

    @property
    def interval(self) -> str:
        """`[-0.238, -0.174]`; a dash where there is none."""
        return f"[{self.low:+.3f}, {self.high:+.3f}]" if self.n > 1 else "-"


def coverage(t: float, freedom: int) -> float:
    """P(|T| <= t) for Student's T with a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


@functools.cache
def quantile(level: float, freedom: int) -> float:
    """The t with P(|T| <= t) = level, by halving; 2.776 for 0.95 and 4 degrees of freedom."""
    low, high = 0.0, 1.0
    while coverage(high, freedom) < level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if coverage(middle, freedom) < level else (low, middle)
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for their number (Holm 1979): below 0.05, at most one family in twenty errs at all."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted

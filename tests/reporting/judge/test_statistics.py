"""Student's t, paired intervals and Holm's correction against tables and closed forms."""

import math

import pytest

from mixalign.reporting.judge.statistics import Paired, coverage, holm, quantile


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042), (120, 1.980)],
)
def test_quantiles_are_those_of_the_table(freedom, t):
    assert quantile(0.95, freedom) == pytest.approx(t, abs=5e-4)
    assert coverage(quantile(0.95, freedom), freedom) == pytest.approx(0.95, abs=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 4.0, 50.0])
def test_coverage_in_closed_form(t):
    assert coverage(t, 1) == pytest.approx(2 / math.pi * math.atan(t))
    assert coverage(t, 2) == pytest.approx(t / math.sqrt(2 + t**2))
    assert coverage(t, 4) == pytest.approx(t * (t**2 + 6) / (t**2 + 4) ** 1.5)


def test_many_seeds_are_normal():
    assert coverage(1.96, 10_000) == pytest.approx(math.erf(1.96 / math.sqrt(2)), abs=1e-4)


def test_a_paired_interval():
    pair = Paired.between([0.1, 0.1, 0.5, 0.7], [0.2, 0.3, 0.4, math.nan])
    # -.1, -.2, +.1: mean -.2/3, squares of deviations sum to .42/9, so the standard error is sqrt(.42 / 54)
    error = math.sqrt(0.42 / 54)
    assert (pair.n, pair.wins) == (3, 2)
    assert pair.error == pytest.approx(error)
    assert (pair.low, pair.high) == pytest.approx((-0.2 / 3 - 4.3027 * error, -0.2 / 3 + 4.3027 * error), abs=1e-5)
    t = 0.2 / 3 / error
    assert pair.p == pytest.approx(1 - t / math.sqrt(2 + t**2))
    assert pair.interval == "[-0.446, +0.313]"


def test_wins_follow_what_is_better():
    assert Paired.between([1.0, 2.0], [0.5, 3.0]).wins == 1
    assert Paired.between([1.0, 2.0], [0.5, 1.0], lower_is_better=False).wins == 2


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.25, 0.0)])
def test_differences_without_spread(shift, p):
    pair = Paired.between([value + shift for value in (1.0, 2.0, 3.0)], [1.0, 2.0, 3.0])
    assert (pair.low, pair.high, pair.p) == (shift, shift, p)


@pytest.mark.parametrize("values", [[], [0.1]])
def test_fewer_than_two_seeds_have_no_interval(values):
    pair = Paired.between(values, [0.0] * len(values))
    assert pair.n == len(values)
    assert all(math.isnan(value) for value in (pair.low, pair.high, pair.p))
    assert pair.interval == "-"


def test_holm():
    # sorted .01, .02, .03, .5 times 4, 3, 2, 1, never below the one before
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.7, 0.7, 0.7]) == [1.0, 1.0, 1.0]
    assert holm([]) == []

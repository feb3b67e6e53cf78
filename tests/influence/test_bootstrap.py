"""Confidence in a sign, where the distribution is known."""

import numpy as np
import pytest

from mixalign.influence.bootstrap import Known, resample, sign_confidence


def values(mean, rows=400):
    """Half of them at mean - 1, half at mean + 1: a standard error of 1 / sqrt(rows)."""
    return np.repeat([mean - 1.0, mean + 1.0], rows // 2)


def known(product_F, rows=None):
    return Known(product_F, np.full(len(product_F), 1 / len(product_F)), rows or len(product_F))


STILL = known(np.zeros((10, 1)))


def test_one_standard_error_is_84_percent():
    # a mean of 0.05 is one standard error of 400 rows above 0: Phi(1) = 0.841
    resampled_XK = resample(np.array([0.05]), [known(values(0.05))], [STILL], np.ones(1), 4000, seed=0)
    assert resampled_XK.shape == (4000, 1)
    assert sign_confidence(np.array([0.05]), resampled_XK)[0] == pytest.approx(0.841, abs=0.03)


def test_rows_of_the_targets_are_resampled_too():
    # both means have a standard error of 0.05: Phi(1 / sqrt 2) = 0.760
    domain, target = known(values(0.05)), known(values(0.05)[:, None])
    resampled_XK = resample(np.array([0.05]), [domain], [target], np.ones(1), 4000, seed=0)
    assert resampled_XK.mean() == pytest.approx(0.05, abs=0.005)
    assert resampled_XK.std() == pytest.approx(0.05 * 2**0.5, rel=0.05)
    assert sign_confidence(np.array([0.05]), resampled_XK)[0] == pytest.approx(0.760, abs=0.03)


def test_target_tables_are_weighted():
    # of two tables the second, still one counts 3/4: what is left of the standard error is 0.05 / 4
    targets, weight_R = [known(values(0.0)[:, None]), STILL], np.array([0.25, 0.75])
    resampled_XK = resample(np.zeros(1), [known(np.zeros(3))], targets, weight_R, 4000, seed=0)
    assert resampled_XK.std() == pytest.approx(0.0125, rel=0.05)


def test_a_few_rows_tell_the_error_of_a_mean_over_many():
    # 32 rows with a mean of their own, of 400: the score stays what it is, its error is that of 400 rows
    few = known(values(7.0, 32), 400)
    resampled_XK = resample(np.array([0.05]), [few], [STILL], np.ones(1), 4000, seed=0)
    assert resampled_XK.mean() == pytest.approx(0.05, abs=0.005)
    assert resampled_XK.std() == pytest.approx(0.05, rel=0.05)


def test_a_row_counts_as_many_as_it_stands_for():
    # 1 of 100 rows has 10, all others have 0, and one of those stands for them: a variance of 100 * .01 * .99
    few = Known(np.array([10.0, 0.0]), np.array([0.01, 0.99]), 100)
    resampled_XK = resample(np.array([0.1]), [few], [STILL], np.ones(1), 20_000, seed=0)
    assert resampled_XK.std() == pytest.approx((100 * 0.01 * 0.99 / 100) ** 0.5, rel=0.03)


def test_a_coin_is_the_least():
    assert sign_confidence(np.array([1.0, -1.0]), np.array([[-1.0, -2.0], [-1.0, -3.0]])).tolist() == [0.5, 1.0]

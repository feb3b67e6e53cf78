"""Confidence in a sign, where the distribution is known."""

import numpy as np
import pytest

from mixalign.influence.bootstrap import resample, sign_confidence


def values(mean, rows=400):
    """Half of them at mean - 1, half at mean + 1: a standard error of 1 / sqrt(rows)."""
    return np.repeat([mean - 1.0, mean + 1.0], rows // 2)


def test_one_standard_error_is_84_percent():
    # a mean of 0.05 is one standard error of 400 rows above 0: Phi(1) = 0.841
    still = np.full((10, 1), 0.05)
    resampled_XK = resample(np.array([0.05]), [values(0.05)], [still], [400, 10], np.ones(1), 4000, seed=0)
    assert resampled_XK.shape == (4000, 1)
    assert sign_confidence(np.array([0.05]), resampled_XK)[0] == pytest.approx(0.841, abs=0.03)


def test_rows_of_the_targets_are_resampled_too():
    # both means have a standard error of 0.05: Phi(1 / sqrt 2) = 0.760
    resampled_XK = resample(
        np.array([0.05]), [values(0.05)], [values(0.05)[:, None]], [400, 400], np.ones(1), 4000, seed=0
    )
    assert resampled_XK.mean() == pytest.approx(0.05, abs=0.005)
    assert resampled_XK.std() == pytest.approx(0.05 * 2**0.5, rel=0.05)
    assert sign_confidence(np.array([0.05]), resampled_XK)[0] == pytest.approx(0.760, abs=0.03)


def test_target_tables_are_weighted():
    # of two tables the second, still one counts 3/4: what is left of the standard error is 0.05 / 4
    moving, still = values(0.0)[:, None], np.zeros((5, 1))
    resampled_XK = resample(
        np.zeros(1), [np.zeros(3)], [moving, still], [3, 400, 5], np.array([0.25, 0.75]), 4000, seed=0
    )
    assert resampled_XK.std() == pytest.approx(0.0125, rel=0.05)


def test_few_rows_tell_the_error_of_a_mean_over_many():
    # 32 rows with a mean of their own, of 400: the score stays what it is, its error is that of 400 rows
    few = values(7.0, 32)
    resampled_XK = resample(np.array([0.05]), [few], [np.zeros((10, 1))], [400, 10], np.ones(1), 4000, seed=0)
    assert resampled_XK.mean() == pytest.approx(0.05, abs=0.005)
    assert resampled_XK.std() == pytest.approx(0.05, rel=0.05)


def test_a_coin_is_the_least():
    assert sign_confidence(np.array([1.0, -1.0]), np.array([[-1.0, -2.0], [-1.0, -3.0]])).tolist() == [0.5, 1.0]

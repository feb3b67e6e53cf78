"""Regression from mixtures to losses, and the search for the best mixture."""

import pytest
import torch

from mixalign.fitting import regression
from mixalign.fitting.regmix import left_out, quality, search
from mixalign.fitting.regression import REGRESSIONS, average, linear, quadratic


def mixtures(number, num_tasks=3, seed=0):
    """(number, K), evenly over the simplex."""
    rng = torch.Generator().manual_seed(seed)
    part = -torch.rand(number, num_tasks, generator=rng, dtype=torch.float64).log()
    return part / part.sum(1, keepdim=True)


SLOPE_KQ = torch.tensor([[-2.0, 1.0], [0.5, 0.0], [1.0, -1.0]], dtype=torch.float64)


def law(weight_MK):
    """Two losses that are linear in the weights."""
    return 3 + weight_MK @ SLOPE_KQ


def bowl(weight_MK):
    """Lowest, 1, at weights .5, .3, .2."""
    goal_K = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    return 1 + (weight_MK - goal_K).square().sum(1, keepdim=True)


def total(value_MQ):
    return value_MQ.sum(1)


@pytest.mark.parametrize("name", ["best", "linear", "quadratic"])
def test_a_linear_law_is_recovered(name):
    """Also outside of what was tried, and with fewer runs than there are products of weights."""
    weight_NK, new_MK = mixtures(8), torch.eye(3, dtype=torch.float64)
    predict = REGRESSIONS[name](weight_NK, law(weight_NK))
    assert predict(weight_NK).numpy() == pytest.approx(law(weight_NK).numpy(), abs=1e-6)
    if name != "quadratic":
        assert predict(new_MK).numpy() == pytest.approx(law(new_MK).numpy(), abs=1e-5)


def test_a_law_with_a_minimum_inside_is_found_by_products_of_weights():
    weight_NK = mixtures(20)
    predict = quadratic(weight_NK, bowl(weight_NK))
    assert predict(mixtures(50, seed=1)).numpy() == pytest.approx(bowl(mixtures(50, seed=1)).numpy(), abs=1e-5)
    best_K = search(predict, total, weight_NK, candidates=20_000, top=64)
    assert best_K.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.01)
    assert float(predict(best_K[None])) == pytest.approx(1, abs=1e-3)


def test_best_takes_for_each_loss_the_regression_that_errs_less():
    weight_NK = mixtures(12)
    rng = torch.Generator().manual_seed(1)
    noise_NQ = 0.05 * torch.randn(12, 2, generator=rng, dtype=torch.float64)
    loss_NQ = torch.cat([law(weight_NK) + noise_NQ, bowl(weight_NK)], 1)
    best, line, curve = (
        REGRESSIONS[n](weight_NK, loss_NQ)(mixtures(9, seed=2)) for n in ("best", "linear", "quadratic")
    )
    assert torch.equal(best[:, 2], curve[:, 2])
    assert torch.equal(best[:, 0], line[:, 0])
    assert not torch.allclose(curve, line)


def test_the_penalty_is_chosen_by_the_error_of_runs_left_out():
    """The closed form against fits without each run in turn, for every penalty."""
    weight_NK, rng = mixtures(9, 4), torch.Generator().manual_seed(3)
    loss_N = weight_NK @ torch.tensor([1.0, 2, 3, 5]).double()
    loss_N += 0.3 * torch.randn(9, generator=rng, dtype=torch.float64)
    largest = torch.linalg.svdvals(weight_NK - weight_NK.mean(0))[0] ** 2

    def error(penalty):
        misses = []
        for n in range(9):
            rest = [m for m in range(9) if m != n]
            mean_K, mean = weight_NK[rest].mean(0), loss_N[rest].mean()
            x, y = weight_NK[rest] - mean_K, loss_N[rest] - mean
            slope_K = torch.linalg.solve(x.T @ x + penalty * torch.eye(4), x.T @ y)
            misses.append(float(mean + (weight_NK[n] - mean_K) @ slope_K - loss_N[n]) ** 2)
        return sum(misses) / 9

    errors = [error(float(penalty * largest)) for penalty in regression.PENALTIES_L]
    _, found = regression._ridge(regression._weights, weight_NK, loss_N[:, None])
    assert float(found) == pytest.approx(min(errors), rel=1e-6)


def test_the_mixture_stays_among_those_that_were_tried():
    """The law wants nothing of the last two tasks; every run had at least .3 of them together."""
    weight_NK = 0.7 * mixtures(30) + 0.3 * torch.tensor([0, 0.5, 0.5], dtype=torch.float64)
    best_K = search(linear(weight_NK, law(weight_NK)), lambda loss_MQ: loss_MQ[:, 0], weight_NK)
    assert weight_NK[:, 0].max() - 0.02 < best_K[0] < weight_NK[:, 0].max()
    assert best_K[1:].sum() >= 0.3
    assert float(best_K.sum()) == pytest.approx(1)
    again_K = search(linear(weight_NK, law(weight_NK)), lambda loss_MQ: loss_MQ[:, 0], weight_NK)
    assert torch.equal(best_K, again_K)


def test_the_quality_of_a_good_fit_and_of_chance():
    weight_NK, rng = mixtures(24), torch.Generator().manual_seed(0)
    chance_NQ = torch.randn(24, 30, generator=rng, dtype=torch.float64)
    for loss_NQ, good in ((law(weight_NK), True), (chance_NQ, False)):
        found = quality(left_out(linear, weight_NK, loss_NQ), loss_NQ, left_out(average, weight_NK, loss_NQ))
        assert (found.r2_Q.min() > 0.999) if good else (found.r2_Q.mean() < 0)
        assert (found.spearman_Q.min() > 0.99) if good else (found.spearman_Q.mean() < 0.1)


def test_quality_by_hand():
    """Errors 0, 1, 0, 1 against 2, 1, 1, 2: 1 - 2 / 10. Ranks 0, 1.5, 1.5, 3 against 0 to 3: 4.5 / sqrt(4.5 * 5)."""
    predicted_N1, loss_N1 = (torch.tensor(v).double()[:, None] for v in ([1, 3, 3, 5], [1, 2, 3, 4]))
    found = quality(predicted_N1, loss_N1, loss_N1 + torch.tensor([[2.0], [-1], [1], [-2]]))
    assert float(found.r2_Q) == pytest.approx(0.8)
    assert float(found.spearman_Q) == pytest.approx(4.5 / 22.5**0.5)


@pytest.mark.parametrize("folds", [None, 2])
def test_runs_of_one_mixture_are_left_out_together(folds):
    """Otherwise a run would be predicted from its twin with another seed."""
    weight_NK = mixtures(5).repeat(2, 1)
    sizes = []

    def fit(rest_MK, loss_MQ):
        sizes.append(len(rest_MK))

        def predict(own_MK):
            assert torch.cdist(own_MK, rest_MK).min() > 1e-3
            return own_MK[:, :1]

        return predict

    assert torch.equal(left_out(fit, weight_NK, torch.zeros(10, 1).double(), folds), weight_NK[:, :1])
    assert sorted(sizes) == ([8] * 5 if folds is None else [4, 6])

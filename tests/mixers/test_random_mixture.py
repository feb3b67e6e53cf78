"""Random mixtures: the law that they are drawn from, and their limits."""

from math import inf

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.base import MixSignal
from mixalign.mixers.random_mixture import RandomMixture

ROWS_K = torch.tensor([900.0, 400.0, 100.0], dtype=torch.float64)
SHARE_K = ROWS_K / ROWS_K.sum()
DRAW_3 = [0.1516266691043706, 0.757631046025803, 0.09074228486982652]
FREE = {"max_repeats": inf, "minimum": 0.0}


def draws(number, **settings):
    """Mixtures (number, 3)."""
    return torch.stack([RandomMixture(draw=n, **settings).init(ROWS_K)[0].sample_K for n in range(number)])


def test_mean_and_variance_are_those_of_the_dirichlet_distribution():
    """Square roots of the rows are as 3 : 2 : 1; at strength s the variance of a weight is m (1 - m) / (s + 1)."""
    weight_NK = draws(4000, min_strength=2, max_strength=2, **FREE)
    mean_K = torch.tensor([3, 2, 1]) / 6
    assert weight_NK.mean(0).tolist() == pytest.approx(mean_K.tolist(), abs=0.01)
    assert weight_NK.var(0).tolist() == pytest.approx((mean_K * (1 - mean_K) / 3).tolist(), rel=0.05)


def test_strengths_make_mixtures_of_few_tasks_or_near_the_prior():
    few, near = (draws(100, min_strength=s, max_strength=s, **FREE) for s in (0.01, 1000))
    assert (few.amax(1) > 0.99).double().mean() > 0.9
    assert (near - torch.tensor([3, 2, 1]) / 6).abs().max() < 0.1


def test_tiny_strengths_do_not_underflow():
    """A gamma variate of shape 1e-6 is below the smallest float64; their shares are not."""
    weight_NK = draws(50, min_strength=1e-6, max_strength=1e-6, **FREE)
    assert weight_NK.isfinite().all()
    assert weight_NK.amax(1).tolist() == pytest.approx([1] * 50)


def test_a_draw_is_the_same_everywhere_and_another_one_is_not():
    """Made by Python's own generator, whose numbers are the same on all platforms; the constants are our own."""
    torch.manual_seed(5)
    first, state = RandomMixture(draw=3).init(ROWS_K)
    assert first.sample_K.tolist() == pytest.approx(DRAW_3, abs=1e-12)
    assert first.loss_K is None
    assert torch.equal(RandomMixture(draw=3).update(MixSignal(0, torch.ones(3)), state)[0].sample_K, first.sample_K)
    others = torch.stack([RandomMixture(draw=n, seed=s).init(ROWS_K)[0].sample_K for n, s in [(4, 0), (3, 1), (0, 3)]])
    assert (others - first.sample_K).abs().amax(1).min() > 1e-3


def test_no_task_is_repeated_more_often_than_allowed():
    assert (draws(200) <= 15 * SHARE_K).all()
    assert (draws(200, max_repeats=2) <= 2 * SHARE_K + 1e-12).all()
    assert (draws(200, **FREE) > 2 * SHARE_K).any()


def test_a_limit_that_no_draw_meets_is_met_on_the_way_to_the_shares():
    settings = {"min_strength": 1e-3, "max_strength": 1e-3, "max_repeats": 1.2, "minimum": 0.0}
    weight_NK = draws(20, **settings)
    assert (weight_NK / SHARE_K).amax(1).tolist() == pytest.approx([1.2] * 20)
    assert draws(2, max_repeats=1).tolist() == pytest.approx(SHARE_K.expand(2, -1).numpy())


def test_small_weights_are_none():
    weight_NK = draws(200, minimum=0.05)
    assert ((weight_NK == 0) | (weight_NK >= 0.05)).all()
    assert (weight_NK == 0).any()
    assert weight_NK.sum(1).tolist() == pytest.approx([1] * 200)


def test_a_prior_of_ones_own():
    mixer = RandomMixture(prior={"c": 1, "a": 3}, min_strength=1e5, max_strength=1e5, temperature=1)
    weights = mixer.for_run(["a", "b", "c"], 10).init(torch.ones(3))[0].sample_K
    assert weights.tolist() == pytest.approx([0.75, 0, 0.25], abs=0.02)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"draw": 1.5}, "`mixer.draw` is 1.5, but must be a whole number"),
        ({"min_strength": 2, "max_strength": 1}, "`mixer.max_strength` is 1, but must be a number from 2 on"),
        ({"max_repeats": 0.5}, "`mixer.max_repeats` is 0.5"),
        ({"minimum": 2}, "`mixer.minimum` is 2"),
        ({"prior": "flat"}, "`mixer.prior` is 'flat'"),
    ],
)
def test_settings_that_cannot_be(settings, says):
    with pytest.raises(MixalignError, match=says):
        RandomMixture(**settings)

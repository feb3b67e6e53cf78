"""ODM's arithmetic (arXiv 2312.02406, Algorithm 1)."""

from math import exp, log, sqrt

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.base import MixSignal
from mixalign.mixers.odm import ODM


def play(mixer, losses, first=0):
    """The mixture and state after one update a row of importance-weighted losses, the first at step `first`."""
    mix, state = mixer.init(torch.ones(len(losses[0])))
    for step, loss in enumerate(losses, first):
        values_K = torch.tensor(loss, dtype=torch.float64)
        mix, state = mixer.update(MixSignal(step, torch.ones(len(loss)), loss_iw_K=values_K), state)
    return mix.sample_K.tolist(), state["reward_K"].tolist()


def test_the_reward_is_a_moving_average_of_the_weighted_loss():
    """.5 * 0 + .5 * 4 = 2, then .5 * 2 + .5 * 0 = 1; the code's EXP3 class has the sum of loss / 10, .4."""
    assert play(ODM(decay=0.5, warmup=0), [[4.0, 0.0], [0.0, 2.0]])[1] == [1.0, 1.0]


def test_weights_have_the_previous_eps_in_the_softmax_and_this_ones_as_floor():
    """K = 2. After 7 steps, eps_8 = sqrt(ln 2 / 16) = .20814 explores, eps_7 = sqrt(ln 2 / 14) = .22251 weighs."""
    sample, _ = play(ODM(decay=0.0, warmup=0), [[log(3) / sqrt(log(2) / 14), 0.0]], first=6)
    floor = sqrt(log(2) / 16)
    assert floor == pytest.approx(0.20814, abs=1e-5)
    assert sample == pytest.approx([(1 - 2 * floor) * 0.75 + floor, (1 - 2 * floor) * 0.25 + floor])
    assert sample == pytest.approx([0.64593, 0.35407], abs=1e-5)


@pytest.mark.parametrize(("steps", "uniform"), [(0, True), (8, True), (9, False)])
def test_learns_nothing_before_step_k_ln_k(steps, uniform):
    """For six tasks eps_t leaves 1 / 6 after t = 6 ln 6 = 10.75; update 8 (the ninth) decides t = 10."""
    sample, _ = play(ODM(decay=0.0, warmup=0), [[1.0, 0, 0, 0, 0, 0]], first=steps)
    assert (sample == pytest.approx([1 / 6] * 6, abs=1e-12)) is uniform


def test_bounded_losses_end_near_uniform():
    """For two tasks eps_10000 = sqrt(ln 2 / 20000) = .0059: a difference of 1 nat gives odds of e^.0059."""
    sample, _ = play(ODM(decay=0.0, warmup=0), [[1.0, 0.0]], first=9999)
    eps = sqrt(log(2) / 20_000)
    assert eps == pytest.approx(0.0059, abs=1e-4)
    assert (sample[0] - eps) / (sample[1] - eps) == pytest.approx(exp(eps), abs=1e-4)
    scaled, _ = play(ODM(decay=0.0, warmup=0, scale=100), [[1.0, 0.0]], first=9999)
    assert scaled[0] > 0.63  # odds e^.59


def test_warmup_is_uniform_and_measures():
    mixer = ODM(decay=0.0, warmup=30)
    assert play(mixer, [[9.0, 0.0]], first=28) == ([0.5, 0.5], [9.0, 0.0])  # the mixture of the thirtieth step
    assert play(mixer, [[9.0, 0.0]], first=29)[0][0] > 0.6


def test_warmup_is_a_share_of_the_run():
    assert ODM(warmup=0.01).for_run(["a", "b"], 1200).warmup == 12
    assert ODM(warmup=7).for_run(["a", "b"], 1200).warmup == 7
    with pytest.raises(MixalignError, match=r"`mixer\.warmup` is 0\.01, a share of the run"):
        ODM(warmup=0.01).init(torch.ones(2))

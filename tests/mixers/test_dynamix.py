"""DynamixSFT's arithmetic (arXiv 2508.12116)."""

from math import exp, log

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.base import MixSignal
from mixalign.mixers.dynamix import DynamixSFT

NAN = float("nan")


def play(mixer, *gains, rows=None):
    """The mixture and Q after one update a row of gains."""
    mix, state = mixer.init(torch.tensor(rows or [1.0] * len(gains[0])))
    for step, row in enumerate(gains):
        gain_K = torch.tensor(row, dtype=torch.float64)
        mix, state = mixer.update(MixSignal(step, torch.ones(len(row)), gain_K=gain_K), state)
    return mix.sample_K.tolist(), state["reward_K"].tolist()


def test_the_first_mixture_is_the_prior_with_its_floor():
    """p0 = 1/4, 3/4; .7 * 1/4 + .3 / 2 = .325."""
    mix, _ = DynamixSFT(every=50).init(torch.tensor([100.0, 300.0]))
    assert mix.sample_K.tolist() == pytest.approx([0.325, 0.675])
    assert mix.loss_K is None


def test_rewards_are_gains_between_the_least_and_the_largest_and_are_averaged():
    """Gains .1, .3, .2 give 0, 1, .5, and with decay .8 a fifth of it; then -.4, -.8, -.8 give 1, 0, 0."""
    mixer = DynamixSFT(decay=0.8, every=50)
    assert play(mixer, [0.1, 0.3, 0.2])[1] == pytest.approx([0, 0.2, 0.1])
    assert play(mixer, [0.1, 0.3, 0.2], [-0.4, -0.8, -0.8])[1] == pytest.approx([0.2, 0.16, 0.08])


def test_the_mixture_is_a_softmax_of_rewards_and_prior_with_a_floor():
    """Q = 0, .5 after one update with decay .5; beta = 2 ln 2 gives odds 1 : 2, prior 1 : 3 makes them 1 : 6."""
    mixer = DynamixSFT(beta=2 * log(2), gamma=0.3, decay=0.5, every=50)
    sample, _ = play(mixer, [0.01, 0.02], rows=[100.0, 300.0])
    assert sample == pytest.approx([0.7 / 7 + 0.15, 0.7 * 6 / 7 + 0.15])
    alike, _ = play(DynamixSFT(prior="uniform", beta=2 * log(2), gamma=0.0, decay=0.5, every=50), [0.01, 0.02])
    assert alike == pytest.approx([1 / 3, 2 / 3])


def test_rewards_move_two_tasks_by_at_most_e_to_the_beta():
    """The published settings, 400 updates in which one task gains most: Q = 1 - .95^400."""
    sample, reward = play(DynamixSFT(prior="uniform", gamma=0.0, every=50), *[[0.5, 0.1]] * 400)
    assert reward == pytest.approx([1 - 0.95**400, 0])
    assert sample[0] / sample[1] == pytest.approx(exp(4), rel=1e-6)


def test_equal_gains_say_nothing():
    mixer = DynamixSFT(prior="uniform", decay=0.5, every=50)
    once, _ = play(mixer, [0.3, 0.1])
    assert play(mixer, [0.2, 0.2])[0] == [0.5, 0.5]
    twice, _ = play(mixer, [0.3, 0.1], [0.2, 0.2])
    assert 0.5 < twice[0] < once[0], "they lower what was known before"


@pytest.mark.parametrize("missing", [NAN, float("inf")])
def test_a_task_without_a_gain_keeps_its_reward(missing):
    mixer = DynamixSFT(decay=0.5, every=50)
    assert play(mixer, [0.1, 0.3, 0.2], [0.4, 0.2, missing])[1] == pytest.approx([0.5, 0.25, 0.25])
    before = play(mixer, [0.1, 0.3, 0.2])
    assert play(mixer, [0.1, 0.3, 0.2], [missing] * 3) == before, "between two measurements nothing moves"


def test_asks_every_so_many_steps_of_the_run():
    assert [step for step in range(1, 200) if DynamixSFT(every=50).asks(step)] == [50, 100, 150]
    told = DynamixSFT(every=0.05, prior={"b": 1, "a": 3}).for_run(["a", "b"], 150)
    assert (told.every, told.prior) == (8, [3, 1])
    assert DynamixSFT(every=0.01).for_run(["a"], 20).asks(1), "at least one step"
    for untold in (lambda: DynamixSFT(every=0.05).asks(1), lambda: DynamixSFT(every=0.05).init(torch.ones(2))):
        with pytest.raises(MixalignError, match=r"`mixer\.every` is 0\.05, a share of the run"):
            untold()


def test_a_prior_that_does_not_fit_the_tasks_is_refused():
    with pytest.raises(MixalignError, match=r"`mixer\.prior` names `c`, which is no task"):
        DynamixSFT(prior={"c": 1}).for_run(["a", "b"], 40)
    with pytest.raises(MixalignError, match=r"`mixer\.prior` has 3 weights, but there are 2 tasks"):
        DynamixSFT(prior=[1, 1, 1], every=50).init(torch.ones(2))

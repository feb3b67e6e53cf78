"""DoGE's arithmetic (arXiv 2310.15393, Algorithm 1), and numbers that the published code gave."""

from math import e, log

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.base import MixSignal
from mixalign.mixers.doge import DoGE

NAN = float("nan")
GRADIENTS = [[0.6, 0.2, 0.0, -0.1], [0.1, 0.5, 0.3, 0.0], [-0.2, 0.1, 0.4, 0.6]]
OPPOSED = [[0.6, 0.2, 0.0, -0.1], [0.1, 0.5, 0.3, 0.0], [-0.9, 0.0, -0.3, 0.1]]


def products(gradients):
    gradient_Kd = torch.tensor(gradients, dtype=torch.float64)
    return gradient_Kd @ gradient_Kd.T


def play(mixer, *products_KK):
    """The mixture after one update for each matrix of products."""
    mix, state = mixer.init(torch.ones(len(products_KK[0])))
    for step, product_KK in enumerate(products_KK):
        product_KK = torch.as_tensor(product_KK, dtype=torch.float64)
        signal = MixSignal(step, torch.ones(len(product_KK)), gradient_KK=product_KK)
        mix, state = mixer.update(signal, state)
    return mix


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({}, [4, 1]),  # W = (3 - 1, 1 - 1) ln 2: all tasks are targets, and each counts as its own
        ({"target": [1, 0]}, [8, 0.5]),  # W = (3, -1) ln 2
        ({"target": [0, 7]}, [0.5, 2]),  # W = (-1, 1) ln 2: only ratios of targets count
        ({"target": [2, 1]}, [8 / 2**0.5, 1 / 2**0.5]),  # W = (3 - .5, -1 + .5) ln 2
        ({"target": "uniform", "eta": 0.5}, [2, 1]),
    ],
)
def test_weights_follow_what_a_step_on_a_task_does_to_the_targets(settings, weights):
    """|g_1|^2 = 3 ln 2, |g_2|^2 = ln 2, and their product is -ln 2: alpha proportional to exp(eta W)."""
    mix = play(DoGE(**{"eta": 1.0, "rescale": False} | settings), [[3 * log(2), -log(2)], [-log(2), log(2)]])
    assert mix.loss_K.tolist() == pytest.approx([w / sum(weights) for w in weights])
    assert mix.sample_K.tolist() == [0.5, 0.5], "the proxy draws all tasks alike"


def test_rescaled_gains_are_in_mean_gradient_norms_from_0_to_5():
    """Norms 3, 1 and 2, mean 2. W = (9 + 3, 3 + 1, 4 - 6) / 2 with the third task against nothing but itself."""
    product_KK = [[9.0, 3.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 4.0]]
    mix = play(DoGE(eta=1.0, target=[1, 1, 0]), product_KK)
    assert (mix.loss_K / mix.loss_K[2]).log().tolist() == pytest.approx([5.0, 2.0, 0.0], abs=1e-5)  # 6 is cut to 5
    mix = play(DoGE(eta=1.0), [[9.0, -6.0, 0.0], [-6.0, 1.0, 0.0], [0.0, 0.0, 4.0]])  # W = (3, -5, 4) / 2
    assert (mix.loss_K / mix.loss_K[1]).log().tolist() == pytest.approx([1.5, 0.0, 2.0], abs=1e-5)


@pytest.mark.parametrize(
    ("gradients", "published"),
    [
        (GRADIENTS, [0.32665057712825113, 0.3392163629194992, 0.3341330599522496]),
        (OPPOSED, [0.32619335579854164, 0.3403710867367414, 0.333435557464717]),  # clipped at 0 for the first
        (
            [[5 * g for g in row] for row in GRADIENTS],
            [0.3005147067612373, 0.3629381716470688, 0.33654712159169387],  # clipped at 5 for the second
        ),
    ],
)
def test_universal_generalisation_is_that_of_the_published_code(gradients, published):
    """Olivia-fsm/DoGE, trainer.py, update_domain_weights_distributed: two steps, lr 5e-4, mu .01, in float64.

    All domains are in train_ids and in tgt_ids, and the gradients below its max_grad_norm. The diagonal counts, as
    its condition for leaving it out never holds.
    """
    product_KK = products(gradients)
    assert play(DoGE(eta=5e-4 / 0.01), product_KK, product_KK).loss_K.tolist() == pytest.approx(published, abs=1e-10)


@pytest.mark.parametrize(
    ("gradients", "target", "published"),
    [
        (GRADIENTS, [0, 0, 1], [0.4987823932478516, 0.5012176067521483, 0]),
        ([*GRADIENTS, [0.3, -0.2, 0.2, 0.1]], [0, 1, 0, 1], [0.5005733540257712, 0, 0.49942664597422887, 0]),
    ],
)
def test_out_of_domain_generalisation_is_that_of_the_published_code(gradients, target, published):
    """The same with mu .05; targets in tgt_ids only."""
    product_KK = products(gradients)
    mix = play(DoGE(eta=5e-4 / 0.05, target=target, out_of_domain=True), product_KK, product_KK)
    assert mix.loss_K.tolist() == pytest.approx(published, abs=1e-10)
    trained = [not t for t in target]
    assert mix.sample_K.tolist() == [1 / sum(trained) if t else 0 for t in trained]


def test_aiolis_port_takes_the_mean_over_the_targets():
    """HazyResearch/aioli, doge_trainer.py, update_domain_weights: three steps, lr 5e-4, mu .01, in float64.

    The validation batch holds each domain once, so its gradient is a third of the sum: three steps are one of ours.
    """
    published = [0.32998494490012953, 0.3362720782906704, 0.3337429768092]
    assert play(DoGE(eta=5e-4 / 0.01), products(GRADIENTS)).loss_K.tolist() == pytest.approx(published, abs=1e-10)


def test_a_task_that_was_not_measured_keeps_its_share_and_is_no_target():
    """W = (3 - 1, 1 - 1) ln 2 of the two that were: they divide their two thirds as 4 : 1."""
    product_KK = [[3 * log(2), -log(2), NAN], [-log(2), log(2), NAN], [NAN, NAN, NAN]]
    mix = play(DoGE(eta=1.0, rescale=False), product_KK)
    assert mix.loss_K.tolist() == pytest.approx([2 / 3 * 0.8, 2 / 3 * 0.2, 1 / 3])


def test_gradients_that_are_all_noise_count_by_their_signs():
    """Squares that are measured below 0 have no norm to divide by; a gain is then 5 or 0, and still bounded."""
    mix = play(DoGE(eta=0.2, target=[1, 0]), [[-0.3, 0.1], [0.1, -0.2]])
    assert (mix.loss_K[1] / mix.loss_K[0]).item() == pytest.approx(e)


def test_targets_by_name_and_times_as_shares_of_the_run():
    mixer = DoGE(target={"b": 1}, out_of_domain=True, every=0.05).for_run(["a", "b", "c"], 100)
    assert mixer.init(torch.ones(3))[0].sample_K.tolist() == [0.5, 0, 0.5]
    assert [step for step in range(1, 12) if mixer.asks(step)] == [5, 10]
    with pytest.raises(MixalignError, match=r"`mixer\.target` names `d`, which is no task"):
        DoGE(target={"d": 1}).for_run(["a", "b", "c"], 100)


@pytest.mark.parametrize("target", ["uniform", "proportional", [1, 2, 3]])
def test_some_task_must_be_left_to_train_on(target):
    with pytest.raises(MixalignError, match=r"`mixer\.out_of_domain` is True, but .* none is left to train on"):
        DoGE(target=target, out_of_domain=True).init(torch.ones(3))

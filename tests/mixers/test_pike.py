"""PiKE's arithmetic (arXiv 2502.06244, Algorithm 1 and Section 3.3); no code of its authors was found."""

from math import exp, log

import pytest
import torch

from mixalign.mixers.base import MixSignal
from mixalign.mixers.pike import PiKE

NAN = float("nan")
ETA, BATCH = 0.1, 8.0


def play(mixer, *steps):
    """The mixture after one update for each (squared gradients, noise, losses)."""
    mix, state = mixer.init(torch.ones(len(steps[0][0])))
    for step, values in enumerate(steps):
        square_K, noise_K, loss_K = (torch.tensor(value, dtype=torch.float64) for value in values)
        unread_KK = torch.full((len(square_K),) * 2, 1e3, dtype=torch.float64)  # products of different tasks
        product_KK = unread_KK.where(~torch.eye(len(square_K), dtype=torch.bool), square_K.diag())
        signal = MixSignal(step, torch.ones(len(square_K)), loss_K, gradient_KK=product_KK, noise_K=noise_K)
        mix, state = mixer.update(signal, state)
    return mix


@pytest.mark.parametrize(
    ("square", "noise", "weights"),
    [
        ([log(3), 0.0], [0.0, 0.0], [9, 1]),  # zeta1 2: exp(2 ln 3)
        ([0.0, 0.0], [log(4), 0.0], [1, 2]),  # zeta2 .5: exp(-.5 ln 4)
        ([log(3), 0.0], [4 * log(3), 0.0], [1, 1]),
        ([-log(3), 0.0], [0.0, 0.0], [1, 9]),  # below 0, as an unbiased square may be
    ],
)
def test_weights_grow_with_the_gradient_and_fall_with_its_noise(square, noise, weights):
    mix = play(PiKE(zeta1=2.0, zeta2=0.5, every=1), (square, noise, [1.0, 1.0]))
    assert mix.sample_K.tolist() == pytest.approx([w / sum(weights) for w in weights])
    assert mix.loss_K is None


def test_steps_add_up_and_those_without_a_measurement_do_nothing():
    seen, unseen = ([log(3), 0.0], [0.0, 0.0], [1.0, 1.0]), ([NAN, NAN], [NAN, NAN], [5.0, 1.0])
    for tau in (0.0, 2.0):
        steps, pause = PiKE(zeta1=1.0, tau=tau, every=2), [unseen, seen, unseen, seen, unseen]
        found, wanted = play(steps, *pause), play(steps, seen, seen)
        assert found.sample_K.tolist() == pytest.approx([0.9, 0.1])
        assert found.alpha_K.tolist() == wanted.alpha_K.tolist()


@pytest.mark.parametrize(
    ("theta", "sigma"), [((2, 1), (1, 1)), ((1, 1), (0.5, 3)), ((1, 2), (2, 0.1)), ((2, 1), (6, 1))]
)
def test_the_first_step_is_towards_the_best_batch_of_the_papers_example(theta, sigma):
    """Example 2.1: L_k = theta_k^2 / 2, rows' gradients with the variance sigma_k^2 in each of two coordinates.

    A step of SGD on a batch that task 1 has the share w of is expected to lower the loss most at
    `w = (1/b (s_2^2 - s_1^2) + 1/eta (t_1^2 - t_2^2) + t_2^2) / (t_1^2 + t_2^2)` (eq. 4). Mirror descent on
    the expected loss (eq. 3) has `zeta1 = a eta (1 - eta / 2)` at w = 1/2, and `zeta2 = a eta^2 / (2 b)`.
    """
    (t1, t2), (s1, s2) = ([x**2 for x in pair] for pair in (theta, sigma))
    best = ((s2 - s1) / BATCH + (t1 - t2) / ETA + t2) / (t1 + t2)
    mixer = PiKE(zeta1=ETA * (1 - ETA / 2), zeta2=ETA**2 / (2 * BATCH), every=1)
    w1, w2 = play(mixer, ([t1, t2], [2 * s1, 2 * s2], [t1 / 2, t2 / 2])).sample_K.tolist()
    assert log(w1 / w2) == pytest.approx(ETA**2 * (t1 + t2) * (best - 0.5))

    def expected_loss(w):
        left = (1 - ETA * w) ** 2 * t1 + (1 - ETA * (1 - w)) ** 2 * t2
        return left / 2 + ETA**2 * (w * s1 + (1 - w) * s2) / BATCH

    assert expected_loss(w1) < expected_loss(0.5)


def test_balanced_weights_are_the_gradient_of_the_tilted_loss():
    """d/dL_k of 1 / tau log sum exp(tau L_k) is exp(tau L_k) / sum: 9 : 1 for tau 2 and losses ln 3 and 0."""
    mix = play(PiKE(zeta1=0.0, zeta2=0.0, tau=2.0, every=1), ([1.0, 1.0], [1.0, 1.0], [log(3), 0.0]))
    assert mix.sample_K.tolist() == [0.5, 0.5]
    assert mix.loss_K.tolist() == pytest.approx([0.9, 0.1])


def test_balanced_pike_sees_gradients_of_weighted_losses():
    """y = (1.5, .5), so squares are 2.25 and .25 times, noise too: gains 2.25 (2 - .5 x 2) and .25 (2 - .5 x 2)."""
    mix = play(PiKE(zeta1=1.0, zeta2=0.5, tau=1.0, every=1), ([2.0, 2.0], [2.0, 2.0], [log(3), 0.0]))
    w = [exp(2.25) / (exp(2.25) + exp(0.25)), exp(0.25) / (exp(2.25) + exp(0.25))]
    assert mix.sample_K.tolist() == pytest.approx(w)
    assert mix.loss_K.tolist() == pytest.approx(
        [1.5 * w[0] / (1.5 * w[0] + 0.5 * w[1]), 0.5 * w[1] / (1.5 * w[0] + 0.5 * w[1])]
    )


def test_a_little_tilt_is_pike():
    step = ([1.0, 0.3, -0.1], [4.0, 2.0, 9.0], [0.7, 0.2, 1.5])
    plain, tilted = play(PiKE(every=1), step, step), play(PiKE(tau=1e-9, every=1), step, step)
    assert tilted.sample_K.tolist() == pytest.approx(plain.sample_K.tolist())
    assert tilted.loss_K.tolist() == pytest.approx(plain.sample_K.tolist()), "the weights of a plain mean"


def test_a_task_without_a_sample_has_its_last_loss_once_more_or_the_mean_of_the_others():
    mixer = PiKE(zeta1=0.0, zeta2=0.0, tau=1.0, every=1)
    zero = [0.0, 0.0, 0.0]
    mean = play(mixer, (zero, zero, [log(4), NAN, 0.0]))
    assert mean.loss_K.tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])  # exp of ln 4, ln 2 and 0
    last = play(mixer, (zero, zero, [log(4), log(3), 0.0]), (zero, zero, [log(4), NAN, 0.0]))
    assert last.loss_K.tolist() == pytest.approx([4 / 8, 3 / 8, 1 / 8])


def test_it_asks_for_gradients_a_share_of_the_run_apart():
    mixer = PiKE(every=0.02).for_run(["a", "b"], 400)
    assert [step for step in range(1, 20) if mixer.asks(step)] == [8, 16]

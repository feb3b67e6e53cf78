"""AMA-R's arithmetic: alpha_i proportional to exp(eta * sum of excesses)."""

from math import log

import pytest
import torch

from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.base import MixSignal

NAN = float("nan")


def play(mixer, *excess):
    """The mixture after one update a row of excesses."""
    mix, state = mixer.init(torch.ones(len(excess[0])))
    for step, excess_K in enumerate(excess):
        values_K = torch.tensor(excess_K, dtype=torch.float64)
        mix, state = mixer.update(MixSignal(step, torch.ones(len(excess_K)), excess_K=values_K), state)
    return mix


@pytest.mark.parametrize(
    ("settings", "excess", "weight"),
    [
        ({"eta": 1.0}, [[log(3), 0.0]], [0.75, 0.25]),
        ({"eta": 0.5}, [[log(9), 0.0]], [0.75, 0.25]),  # eta scales the excess
        ({"eta": 1.0}, [[log(3), 0.0], [0.0, log(3)]], [0.5, 0.5]),  # excesses add up
        ({"eta": 1.0}, [[log(3), 0.0], [log(3), 0.0]], [0.9, 0.1]),  # 9 : 1
        ({"eta": 1.0, "floor": 0.4}, [[log(3), 0.0]], [0.65, 0.35]),  # .6 * .75 + .4 / 2
        # the floor is on alpha, not on what it grows from: .6 * .9 + .2
        ({"eta": 1.0, "floor": 0.4}, [[log(3), 0.0], [log(3), 0.0]], [0.74, 0.26]),
        ({"eta": 1.0}, [[log(2), NAN, 0.0]], [4 / 9, 1 / 3, 2 / 9]),  # absent: keeps 1/3; the others divide 2/3
        ({"eta": 0.0}, [[5.0, 0.0]], [0.5, 0.5]),
    ],
)
def test_weights(settings, excess, weight):
    mix = play(AMAR(**settings), *excess)
    assert mix.loss_K.tolist() == pytest.approx(weight, abs=1e-12)
    assert mix.sample_K.tolist() == pytest.approx([1 / len(weight)] * len(weight)), "batches hold every task equally"


def test_begins_uniform_whatever_the_sizes():
    mix, _ = AMAR().init(torch.tensor([8000.0, 400.0]))
    assert mix.loss_K.tolist() == [0.5, 0.5]


def test_ends_on_the_worst_task():
    mix = play(AMAR(eta=0.05), *[[0.3, 0.5, 0.1]] * 1000)
    assert mix.loss_K.argmax() == 1
    assert mix.loss_K[1] > 0.999  # odds exp(.05 * 1000 * .2) = e^10 against the next

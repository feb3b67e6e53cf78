"""Static mixtures: rows^(1/temperature), and weights as given."""

from math import inf

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.base import MixSignal
from mixalign.mixers.fixed import Fixed, Temperature

ROWS_K = torch.tensor([800.0, 200.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("temperature", "sample"),
    [
        (1, [0.8, 0.2]),  # proportional to size
        (2, [2 / 3, 1 / 3]),  # sqrt(800) : sqrt(200) = 2 : 1
        (inf, [0.5, 0.5]),  # uniform
        (0.5, [16 / 17, 1 / 17]),  # 800^2 : 200^2 = 16 : 1, sharper than proportional
    ],
)
def test_first_mixture(temperature, sample):
    mix, _ = Temperature(temperature).init(ROWS_K)
    assert mix.sample_K.tolist() == pytest.approx(sample, abs=1e-12)
    assert mix.loss_K is None


def test_never_moves():
    mixer = Temperature(2)
    first, state = mixer.init(ROWS_K)
    for step in range(10):
        mix, state = mixer.update(MixSignal(step, torch.ones(2), loss_K=torch.tensor([9.0, 0.0])), state)
    assert torch.equal(mix.sample_K, first.sample_K)


def test_a_cold_mixture_of_large_tasks_does_not_overflow():
    """800^1000 is beyond float64; shares are normalised before the power is taken."""
    mix, _ = Temperature(1e-3).init(torch.tensor([8e8, 4e8]))
    assert mix.sample_K.tolist() == pytest.approx([1, 0], abs=1e-12)


def test_given_weights_are_normalised_and_stay():
    mixer = Fixed({"b": 3, "a": 1}).for_run(["a", "b", "c"], 10)
    mix, state = mixer.init(torch.tensor([10.0, 20.0, 30.0]))
    assert mix.sample_K.tolist() == [0.25, 0.75, 0]
    assert mix.loss_K is None
    assert mixer.update(MixSignal(0, torch.ones(3)), state)[0].sample_K.tolist() == [0.25, 0.75, 0]
    assert Fixed([2, 6]).init(ROWS_K)[0].sample_K.tolist() == [0.25, 0.75]
    assert Fixed("proportional").init(ROWS_K)[0].sample_K.tolist() == pytest.approx([0.8, 0.2])


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("equal", "`mixer.weights` is 'equal'"),
        ([0, 0], "`mixer.weights` is"),
        ({"a": -1}, "`mixer.weights` is"),
        ({"x": 1}, "`mixer.weights` names `x`, which is no task"),
        ([1, 2, 3], "`mixer.weights` has 3 weights, but there are 2 tasks"),
    ],
)
def test_weights_that_cannot_be(weights, says):
    with pytest.raises(MixalignError, match=says):
        Fixed(weights).for_run(["a", "b"], 10).init(ROWS_K)

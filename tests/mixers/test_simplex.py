"""Arithmetic on the simplex, with numbers that a reader can check."""

from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.mixers.simplex import ascend, mix_uniform, normalise, uniform

NAN = float("nan")


def k(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_uniform_and_normalise():
    assert uniform(4).tolist() == [0.25] * 4
    assert normalise(torch.tensor([1, 3])).tolist() == [0.25, 0.75]  # whole numbers become float64
    assert normalise(torch.tensor([1, 3])).dtype == torch.float64


@pytest.mark.parametrize(
    ("start", "gain", "eta", "end"),
    [
        ([0.5, 0.5], [log(3), 0.0], 1.0, [0.75, 0.25]),  # 3 : 1
        ([0.5, 0.5], [2 * log(3), 0.0], 0.5, [0.75, 0.25]),  # the step is eta * gain
        ([0.5, 0.5], [7.0, 7.0], 1.0, [0.5, 0.5]),  # only differences count
        ([0.8, 0.2], [0.0, log(4)], 1.0, [0.5, 0.5]),  # .8 : .2 * 4
        ([0.5, 0.5], [-log(3), 0.0], 1.0, [0.25, 0.75]),  # an unclipped excess may be negative
        ([0.2, 0.4, 0.4], [NAN, log(3), 0.0], 1.0, [0.2, 0.6, 0.2]),  # the known tasks divide .8 as 3 : 1
        ([0.2, 0.4, 0.4], [NAN, 5.0, NAN], 1.0, [0.2, 0.4, 0.4]),  # one known task has nobody to take from
        ([0.3, 0.7], [NAN, NAN], 1.0, [0.3, 0.7]),
        ([0.0, 1.0], [5.0, NAN], 1.0, [0.0, 1.0]),  # nothing is measured but of a task without weight
        ([0.3, 0.7], [5.0, 1.0], 0.0, [0.3, 0.7]),
    ],
)
def test_ascend(start, gain, eta, end):
    assert ascend(k(*start).log(), k(*gain), eta).exp().tolist() == pytest.approx(end, abs=1e-12)


def test_ascend_does_not_overflow_and_can_come_back():
    """exp(10000) is beyond float64; in log space the loser keeps a finite weight, from which it can recover."""
    log_K = ascend(uniform(2).log(), k(1e4, 0.0), 1.0)
    assert log_K.exp().tolist() == [1.0, 0.0]
    assert ascend(log_K, k(0.0, 1e4), 1.0).exp().tolist() == pytest.approx([0.5, 0.5])


def test_mix_uniform_keeps_a_floor():
    assert mix_uniform(k(1.0, 0.0, 0.0, 0.0), 0.2).tolist() == pytest.approx([0.85, 0.05, 0.05, 0.05])
    assert mix_uniform(k(0.9, 0.1), 0.0).tolist() == [0.9, 0.1]
    assert mix_uniform(k(0.9, 0.1), 1.0).tolist() == [0.5, 0.5]


few = settings(max_examples=100, deadline=None, derandomize=True)

WEIGHT = st.just(0.0) | st.floats(1e-6, 1)
GAIN = st.just(NAN) | st.floats(-50, 50)


@st.composite
def steps(draw):
    """Weights of some tasks that sum to 1, zeros among them, a gain of each, and a step size."""
    num_tasks = draw(st.integers(1, 6))
    size = {"min_size": num_tasks, "max_size": num_tasks}
    weight_K = draw(st.lists(WEIGHT, **size).filter(any))
    return normalise(k(*weight_K)), k(*draw(st.lists(GAIN, **size))), draw(st.floats(0, 5))


@given(steps())
@few
def test_a_step_stays_on_the_simplex(step):
    """A weight of 0 stays 0, and a task that was not measured keeps its share."""
    weight_K, gain_K, eta = step
    after_K = ascend(weight_K.log(), gain_K, eta).exp()
    assert after_K.sum().item() == pytest.approx(1)
    assert (after_K >= 0).all()
    assert (after_K[weight_K == 0] == 0).all()
    assert after_K[gain_K.isnan()].tolist() == pytest.approx(weight_K[gain_K.isnan()].tolist())


@given(steps(), st.floats(-20, 20))
@few
def test_only_differences_of_gains_count(step, shift):
    weight_K, gain_K, eta = step
    one_K, other_K = (ascend(weight_K.log(), gain, eta).exp() for gain in (gain_K, gain_K + shift))
    assert one_K.tolist() == pytest.approx(other_K.tolist(), abs=1e-9)


@given(steps(), st.randoms(use_true_random=False))
@few
def test_the_order_of_the_tasks_does_not_matter(step, random):
    weight_K, gain_K, eta = step
    order = [*range(len(weight_K))]
    random.shuffle(order)
    one_K = ascend(weight_K.log(), gain_K, eta)[order]
    other_K = ascend(weight_K[order].log(), gain_K[order], eta)
    assert one_K.exp().tolist() == pytest.approx(other_K.exp().tolist())


@given(steps())
@few
def test_the_greatest_gain_never_loses_and_the_least_never_wins(step):
    weight_K, gain_K, eta = step
    known_K = ~gain_K.isnan() & (weight_K > 0)
    if not known_K.any():
        return
    after_K, inside = ascend(weight_K.log(), gain_K, eta).exp(), gain_K[known_K]
    best, worst = known_K & (gain_K == inside.max()), known_K & (gain_K == inside.min())
    assert (after_K[best] >= weight_K[best] * (1 - 1e-9)).all()
    assert (after_K[worst] <= weight_K[worst] * (1 + 1e-9)).all()


@given(steps(), st.floats(0, 1))
@few
def test_a_floor_holds_for_every_task(step, share):
    weight_K = step[0]
    mixed_K = mix_uniform(weight_K, share)
    assert mixed_K.sum().item() == pytest.approx(1)
    assert (mixed_K >= share / len(weight_K) - 1e-12).all()
    assert (mixed_K <= weight_K.max().clamp_min(1 / len(weight_K)) + 1e-12).all()

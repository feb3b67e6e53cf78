"""Arithmetic on the simplex, with numbers that a reader can check."""

from math import log

import pytest
import torch

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

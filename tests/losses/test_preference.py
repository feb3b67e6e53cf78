"""DPO values and gradients against closed forms."""

from math import exp, log

import pytest
import torch

from mixalign.losses.preference import dpo


def values(log_ratio, beta=1.0, smoothing=0.0):
    args = (torch.as_tensor(v, dtype=torch.float64) for v in (log_ratio, beta, smoothing))
    return dpo(*args)


@pytest.mark.parametrize(
    ("log_ratio", "beta", "smoothing", "expected"),
    [
        (0.0, 0.1, 0.0, log(2)),  # policy = reference
        (0.0, 9.0, 0.3, log(2)),  # at zero margin for every beta and smoothing
        (log(3), 1.0, 0.0, log(4 / 3)),  # sigmoid(log 3) = 3/4
        (-log(3), 1.0, 0.0, log(4)),
        (2 * log(3), 0.5, 0.0, log(4 / 3)),  # only beta * log_ratio counts
        (log(3), 1.0, 0.25, 0.75 * log(4 / 3) + 0.25 * log(4)),  # cDPO: a quarter of the labels are swapped
    ],
)
def test_value(log_ratio, beta, smoothing, expected):
    assert values(log_ratio, beta, smoothing).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradient(smoothing):
    """d/dr of the loss is beta * (sigmoid(beta r) - (1 - s)); it vanishes where the margin says 1 - s."""
    beta, ratio_B = 0.5, torch.tensor([-3.0, 0.0, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    dpo(ratio_B, torch.tensor(beta), torch.tensor(smoothing, dtype=torch.float64)).sum().backward()
    expected = [beta * (1 / (1 + exp(-beta * r)) - (1 - smoothing)) for r in ratio_B.tolist()]
    assert ratio_B.grad.tolist() == pytest.approx(expected, abs=1e-12)


def test_label_smoothing_is_the_mean_of_both_labels():
    ratio_B = torch.linspace(-5, 5, 11, dtype=torch.float64)
    mixed_B = 0.9 * values(ratio_B) + 0.1 * values(-ratio_B)
    torch.testing.assert_close(values(ratio_B, smoothing=0.1), mixed_B)


def test_settings_are_those_of_each_sample():
    """Tasks may differ in beta and in smoothing; a batch holds several tasks."""
    loss_B = values([2.0, 2.0, 2.0], [0.1, 0.5, 0.5], [0.0, 0.0, 0.4])
    assert loss_B.tolist() == [values(2.0, *s).item() for s in ((0.1, 0.0), (0.5, 0.0), (0.5, 0.4))]


def test_extreme_margins_stay_finite():
    ratio_B = torch.tensor([-1e4, 1e4], dtype=torch.float64, requires_grad=True)
    loss_B = values(ratio_B, smoothing=0.1)
    assert loss_B.tolist() == pytest.approx([9000, 1000])  # .9 and .1 of |h|
    loss_B.sum().backward()
    assert ratio_B.grad.isfinite().all()

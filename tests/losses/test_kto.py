"""The KTO loss on numbers that a reader can check: sigmoid(1) = 0.731059."""

import pytest
import torch

from mixalign.losses.kto import kl_estimate, kl_sums, kto


def test_worked_numbers():
    # ratios of 5, 5 and 1 nats measured from 3, beta 0.5: h = 1 and -1, and of the other sign for undesirable answers
    ratio_B = torch.tensor([5.0, 5.0, 1.0, 1.0])
    loss_B, h_B = kto(ratio_B, 3.0, torch.tensor([True, False, True, False]), torch.tensor(0.5))
    assert h_B.tolist() == [1, -1, -1, 1]
    assert loss_B.tolist() == pytest.approx([0.268941, 0.731059, 0.731059, 0.268941], abs=1e-6)


def test_at_the_reference_it_is_a_half():
    loss_B, _ = kto(torch.zeros(2), 0.0, torch.tensor([True, False]), torch.tensor([0.1, 9.0]))
    assert loss_B.tolist() == [0.5, 0.5]


def test_extreme_ratios_stay_finite():
    ratio_B = torch.tensor([1e4, -1e4]).requires_grad_()
    loss_B, _ = kto(ratio_B, 0.0, torch.tensor([True, True]), torch.tensor(1.0))
    loss_B.sum().backward()
    assert loss_B.tolist() == [0, 1]
    assert ratio_B.grad.tolist() == [0, 0]


@pytest.mark.parametrize(("ratios", "wanted"), [([1.0, 4.0, -2.0], 1.0), ([-1.0, -4.0], 0.0)])
def test_the_estimate_is_a_mean_of_at_least_0_without_a_gradient(ratios, wanted):
    ratio_B = torch.tensor(ratios, requires_grad=True)
    found = kl_estimate(kl_sums(ratio_B, torch.zeros(len(ratios), dtype=torch.int64), 1))
    assert found.item() == wanted
    assert not found.requires_grad

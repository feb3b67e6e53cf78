"""Drawn words follow the softmax."""

import pytest
import torch

from mixalign.losses.sampling import sample_linear, sample_logits


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_words_come_as_often_as_the_softmax_says(dtype):
    # softmax of (log 1, log 2, log 5) is (1/8, 2/8, 5/8)
    logits = torch.tensor([[1.0, 2.0, 5.0]]).log().to(dtype).expand(40_000, 3)
    share = sample_logits(logits, draws()).bincount(minlength=3) / 40_000
    assert share.tolist() == pytest.approx([0.125, 0.25, 0.625], abs=0.01)  # four standard errors


def test_from_hidden_states_the_words_are_those_of_the_logits():
    hidden_NH, weight_VH = torch.randn(700, 8, generator=draws(1)), torch.randn(50, 8, generator=draws(2))
    wanted = sample_logits(hidden_NH @ weight_VH.t(), draws())
    assert len(wanted.unique()) > 10
    assert sample_linear(hidden_NH, weight_VH, draws()).equal(wanted)
    assert not sample_linear(hidden_NH, weight_VH, draws(3)).equal(wanted)


def test_nothing_to_draw_carries_no_gradient():
    logits = torch.zeros(2, 3, requires_grad=True)
    assert not sample_logits(logits, draws()).requires_grad

"""Drawn words follow the softmax."""

import pytest
import torch

from mixalign.losses import sampling
from mixalign.losses.sampling import sample_linear, sample_logits


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_words_come_as_often_as_the_softmax_says(dtype):
    # softmax of (log 1, log 2, log 5) is (1/8, 2/8, 5/8)
    logits = torch.tensor([[1.0, 2.0, 5.0]]).log().to(dtype).expand(40_000, 3)
    share = sample_logits(logits, draws()).bincount(minlength=3) / 40_000
    assert share.tolist() == pytest.approx([0.125, 0.25, 0.625], abs=0.01)  # four standard errors


def test_words_of_a_large_vocabulary_come_as_often_as_the_softmax_says():
    logits = torch.randn(1, 1000, generator=draws(1))
    count = sample_logits(logits.expand(200_000, -1), draws()).bincount(minlength=1000)
    wanted = 200_000 * logits[0].double().softmax(0)
    chi2 = ((count - wanted) ** 2 / wanted).sum().item()  # mean 999, standard deviation 45
    assert 820 < chi2 < 1180


@pytest.mark.parametrize("allowed", [[0], [63], [64], [127, 128], [199]])
def test_words_without_probability_are_never_drawn(allowed):
    logits = torch.full((5000, 200), -torch.inf)
    logits[:, allowed] = 0
    assert sorted(sample_logits(logits, draws()).unique().tolist()) == allowed


@pytest.mark.parametrize("level", [0.0, 1 - 2**-53])
def test_words_at_the_ends_of_what_can_be_drawn_have_probability(monkeypatch, level):
    """At the ends rounding could lead to a word outside the vocabulary, or to one that the model never says."""
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype, **_: torch.full(shape, level, dtype=dtype))
    logits = torch.randn(3000, 1000, generator=draws(1)).cumsum(1)
    logits[:, :70] = logits[:, -70:] = -torch.inf
    drawn = sample_logits(logits, draws())
    assert logits.gather(1, drawn[:, None]).isfinite().all()


def test_where_torch_is_to_be_deterministic_the_words_are_the_same(monkeypatch):
    """There a GPU has no cumulative sum of floats."""
    logits = 3 * torch.randn(3000, 1000, generator=draws(1))
    logits[:, ::3] = -torch.inf
    wanted = sample_logits(logits, draws())
    monkeypatch.setattr(sampling, "_upto", sampling._upto_by_integers)
    assert sample_logits(logits, draws()).equal(wanted)
    share = torch.tensor([[0.25, 0.0, 0.75], [1e-30, 0.0, 3e-30]], dtype=torch.float64)
    assert sampling._upto_by_integers(share).allclose(share.cumsum(1), rtol=1e-14, atol=0)


def test_from_hidden_states_the_words_are_those_of_the_logits():
    hidden_NH, weight_VH = torch.randn(700, 8, generator=draws(1)), torch.randn(50, 8, generator=draws(2))
    wanted = sample_logits(hidden_NH @ weight_VH.t(), draws())
    assert len(wanted.unique()) > 10
    assert sample_linear(hidden_NH, weight_VH, draws()).equal(wanted)
    assert not sample_linear(hidden_NH, weight_VH, draws(3)).equal(wanted)


def test_nothing_to_draw_carries_no_gradient():
    logits = torch.zeros(2, 3, requires_grad=True)
    assert not sample_logits(logits, draws()).requires_grad

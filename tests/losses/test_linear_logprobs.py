"""The fused head against logits that exist, in values and gradients."""

import pytest
import torch

from mixalign.losses import linear_logprobs as fused
from mixalign.losses.linear_logprobs import linear_logprobs
from mixalign.losses.logprobs import gather_logprobs


def make(num_rows, vocabulary, dtype=torch.float32, hidden=16):
    rng = torch.Generator().manual_seed(num_rows + vocabulary)
    hidden_NH = torch.randn(num_rows, hidden, generator=rng, dtype=dtype).requires_grad_()
    weight_VH = torch.randn(vocabulary, hidden, generator=rng, dtype=dtype).requires_grad_()
    target_N = torch.randint(0, vocabulary, (num_rows,), generator=rng)
    return hidden_NH, weight_VH, target_N, torch.randn(num_rows, generator=rng, dtype=dtype)


def results(function, hidden_NH, weight_VH, target_N, factor_N):
    logp_N = function(hidden_NH, weight_VH, target_N)
    return logp_N.detach(), *torch.autograd.grad((logp_N * factor_N).sum(), (hidden_NH, weight_VH))


def naive(hidden_NH, weight_VH, target_N):
    return (hidden_NH @ weight_VH.T).log_softmax(-1).gather(1, target_N[:, None])[:, 0]


@pytest.mark.parametrize("num_rows", [1, 63, 64, 600])
@pytest.mark.parametrize("wide", [10**9, 1], ids=["by rows", "by words"])
def test_equals_the_naive_formula(monkeypatch, num_rows, wide):
    monkeypatch.setattr(fused, "WIDE", wide)
    monkeypatch.setattr(fused, "BLOCK", 24)  # 50 words: three blocks, the last one short
    monkeypatch.setattr(fused, "CACHED", 50 * 100)  # and rows by the hundred
    args = make(num_rows, 50, torch.float64)
    for ours, theirs in zip(results(linear_logprobs, *args), results(naive, *args), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wide", [10**9, 1], ids=["by rows", "by words"])
def test_bfloat16_is_reduced_in_float32(monkeypatch, wide):
    monkeypatch.setattr(fused, "WIDE", wide)
    args = make(200, 40)
    with torch.autocast("cpu", torch.bfloat16):
        ours = results(linear_logprobs, *args)
        logits = torch.nn.functional.linear(args[0], args[1])
        theirs = gather_logprobs(logits, args[2])
    assert [x.dtype for x in ours] == [torch.float32] * 3
    torch.testing.assert_close(ours[0], theirs.detach(), rtol=1e-6, atol=1e-6)
    exact = results(naive, *args)
    for got, wanted in zip(ours[1:], exact[1:], strict=True):
        assert float((got - wanted).norm() / wanted.norm()) < 0.02


def test_a_frozen_head_gets_no_gradient():
    hidden_NH, weight_VH, target_N, factor_N = make(70, 30)
    weight_VH.requires_grad_(False)
    (linear_logprobs(hidden_NH, weight_VH, target_N) * factor_N).sum().backward()
    assert weight_VH.grad is None
    expected = torch.autograd.grad((naive(hidden_NH, weight_VH, target_N) * factor_N).sum(), hidden_NH)[0]
    torch.testing.assert_close(hidden_NH.grad, expected)

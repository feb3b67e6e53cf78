"""The switch between heads; the kernels themselves need a GPU, so their library is replaced by its formula here."""

import sys
from types import SimpleNamespace

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.models.head import target_logprobs, use_head

SEEN = []


def formula(e, c, targets, reduction, filter_eps):
    """What cut_cross_entropy.linear_cross_entropy computes."""
    SEEN.append((e.dtype, c.dtype))
    return torch.nn.functional.cross_entropy((e @ c.T).float(), targets, reduction=reduction)


@pytest.fixture(autouse=True)
def _own_head_again():
    yield
    use_head("chunked")


@pytest.mark.parametrize("autocast", [False, True])
def test_both_heads_give_the_same_numbers_and_gradients(monkeypatch, autocast):
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", SimpleNamespace(linear_cross_entropy=formula))
    rng = torch.Generator().manual_seed(0)
    hidden_NH, weight_VH = (torch.randn(n, 8, generator=rng).requires_grad_() for n in (5, 11))
    target_N = torch.tensor([3, 0, 10, 3, 7])
    found = []
    for name in ("chunked", "cce"):
        use_head(name)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logp_N = target_logprobs(hidden_NH, weight_VH, target_N)
        assert logp_N.dtype == torch.float32
        found.append((logp_N.detach(), *torch.autograd.grad(logp_N.sum(), (hidden_NH, weight_VH))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0.02 if autocast else 1e-5)
    assert SEEN[-1] == (torch.bfloat16 if autocast else torch.float32,) * 2


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", None)
    with pytest.raises(MixalignError, match=r"engine.head=cce.*pip install cut-cross-entropy"):
        use_head("cce")

"""Log-probabilities against log_softmax, and their sums against a loop."""

import pytest
import torch

from mixalign.losses.logprobs import gather_logprobs, sum_by_sequence


def test_two_tokens_by_hand():
    """Logits log 3 and 0 are probabilities 3/4 and 1/4."""
    logits_NV = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log()
    found = gather_logprobs(logits_NV, torch.tensor([0, 1])).exp()
    assert found.tolist() == pytest.approx([0.75, 0.5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_is_log_softmax_in_float32(dtype):
    """From 16-bit logits the result is that of the same logits in float32, not a 16-bit log_softmax."""
    rng = torch.Generator().manual_seed(0)
    logits_NV = (4 * torch.randn(50, 300, generator=rng)).to(dtype)
    target_N = torch.randint(300, (50,), generator=rng)
    exact_N = logits_NV.double().log_softmax(1)[torch.arange(50), target_N]
    found_N = gather_logprobs(logits_NV, target_N)
    assert found_N.dtype == torch.float32
    torch.testing.assert_close(found_N.double(), exact_N, rtol=0, atol=5e-6)


def test_gradient_is_one_hot_minus_softmax():
    logits_NV = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target_N = torch.tensor([0, 3, 6, 3])
    gather_logprobs(logits_NV, target_N).sum().backward()
    one_hot_NV = torch.nn.functional.one_hot(target_N, 7).float()
    torch.testing.assert_close(logits_NV.grad, one_hot_NV - logits_NV.detach().softmax(1))


def test_large_logits_do_not_overflow():
    found = gather_logprobs(torch.tensor([[1e4, 0.0], [1e4, 0.0]]), torch.tensor([0, 1]))
    assert found.tolist() == [0.0, -1e4]


def test_sum_by_sequence():
    """Tokens of a sequence need not be neighbours; a sequence without tokens sums to 0."""
    sums = sum_by_sequence(torch.tensor([-1.0, -2.0, -4.0, -8.0]), torch.tensor([0, 2, 0, 3]), 4)
    assert sums.tolist() == [-5.0, 0.0, -2.0, -8.0]


def test_sums_are_taken_in_float64():
    """In float32, 1000 + 2^-15 is 1000: the small token would be lost from the margin."""
    logp_N = torch.tensor([-1000.0, -(2.0**-15)])
    assert sum_by_sequence(logp_N, torch.tensor([0, 0]), 1).item() == -1000 - 2.0**-15
    assert logp_N.sum().item() == -1000


def test_sum_passes_gradients_to_every_token():
    logp_N = torch.zeros(3, requires_grad=True)
    (sum_by_sequence(logp_N, torch.tensor([0, 1, 1]), 2) * torch.tensor([2.0, 5.0])).sum().backward()
    assert logp_N.grad.tolist() == [2.0, 5.0, 5.0]

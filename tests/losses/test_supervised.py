"""Cross-entropy averaged within each row."""

import pytest
import torch

from mixalign.losses.supervised import mean_cross_entropy


def test_rows_count_the_same_whatever_their_length():
    """Two tokens at -3 in all, and six at -3 in all: 1.5 and .5 nats a token."""
    loss_B = mean_cross_entropy(torch.tensor([-3.0, -3.0]), torch.tensor([2.0, 6.0]))
    assert loss_B.tolist() == pytest.approx([1.5, 0.5])


def test_equals_torch_on_one_row():
    logits_TV = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    target_T = torch.tensor([1, 8, 0, 3, 3])
    logp = logits_TV.log_softmax(1)[torch.arange(5), target_T].sum()
    ours = mean_cross_entropy(logp[None], torch.tensor([5.0]))
    torch.testing.assert_close(ours[0], torch.nn.functional.cross_entropy(logits_TV, target_T))

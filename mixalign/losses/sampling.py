"""Words drawn from a model's own predictions.

N predicted tokens, H hidden size, V vocabulary; a chunk has C tokens, whose V probabilities lie in K blocks.
"""

import torch
from torch import Generator, Tensor, nn

from mixalign.types import sum_dtype

__all__ = ["sample_linear", "sample_logits"]

CHUNK = 256  # rows of probabilities that exist at a time
BLOCK = 64  # words whose probabilities are added up


@torch.no_grad()
def sample_logits(logits_NV: Tensor, generator: Generator) -> Tensor:
    """One word of each row's softmax (N,), int64. Probabilities are float32 whatever the logits' dtype."""
    return torch.cat([_draw(x.float().softmax(1), generator) for x in torch.split(logits_NV, CHUNK)])


@torch.no_grad()
def sample_linear(hidden_NH: Tensor, weight_VH: Tensor, generator: Generator) -> Tensor:
    """One word of each row of `softmax(hidden @ weight.T)` (N,); the logits never exist as a whole.

    The draws are those of `sample_logits` with the same generator, also under autocast.
    """
    return torch.cat([sample_logits(x @ weight_VH.t(), generator) for x in torch.split(hidden_NH, CHUNK)])


def _draw(prob_CV: Tensor, generator: Generator) -> Tensor:
    """One word of each row (C,) by one uniform number a row: first its block, then its place in the block.

    `torch.multinomial` takes a random number for every word of the vocabulary, which costs more than the logits.
    """
    padded_CV = nn.functional.pad(prob_CV, (0, -prob_CV.shape[1] % BLOCK))
    prob_CKB = padded_CV.view(len(padded_CV), -1, BLOCK)
    dtype = sum_dtype(prob_CV.device)
    block_CK = prob_CKB.sum(2, dtype=dtype)
    level_C1 = torch.rand(len(prob_CV), 1, dtype=dtype, device=prob_CV.device, generator=generator)
    level_C1 = level_C1 * block_CK.sum(1, keepdim=True)
    upto_CK = _upto(block_CK)
    number_C1 = _place(upto_CK, level_C1)
    below_C1 = upto_CK.gather(1, number_C1) - block_CK.gather(1, number_C1)
    inside_CB = prob_CKB[torch.arange(len(prob_CKB)), number_C1[:, 0]].to(dtype)
    place_C1 = _place(_upto(inside_CB), level_C1 - below_C1)
    return (number_C1 * BLOCK + place_C1)[:, 0]


def _place(upto_CX: Tensor, level_C1: Tensor) -> Tensor:
    """The first place whose cumulative share is above the level (C, 1); never one whose share is 0."""
    highest_C1 = upto_CX[:, -1:] * (1 - 8 * torch.finfo(upto_CX.dtype).eps)
    level_C1 = level_C1.clamp_min(0).minimum(highest_C1)  # rounding may put it outside
    return torch.searchsorted(upto_CX, level_C1, right=True)


def _upto(share_CX: Tensor) -> Tensor:
    """Cumulative shares of each row; those of floats torch refuses on a GPU where it is to be deterministic."""
    if share_CX.is_cuda and torch.are_deterministic_algorithms_enabled():
        return _upto_by_integers(share_CX)
    return share_CX.cumsum(1)


def _upto_by_integers(share_CX: Tensor) -> Tensor:
    """The same by sums of whole numbers, which have no order: a share is a multiple of 2^-52 of its row's sum."""
    unit_C1 = share_CX.sum(1, keepdim=True) / 2**52
    return (share_CX / unit_C1).long().cumsum(1) * unit_C1

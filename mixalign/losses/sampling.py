"""Words drawn from a model's own predictions.

N predicted tokens, H hidden size, V vocabulary; a chunk has C tokens, whose V shares lie in K blocks of B words.
"""

import torch
from torch import Generator, Tensor, nn

from mixalign.losses.linear_logprobs import CACHED, compute_dtype
from mixalign.types import sum_dtype

__all__ = ["sample_linear", "sample_logits"]

CHUNK = 256  # rows of logits that exist at a time
BLOCK = 64  # words whose shares are added up


@torch.no_grad()
def sample_logits(logits_NV: Tensor, generator: Generator) -> Tensor:
    """One word of each row's softmax (N,), int64. Probabilities are float32 whatever the logits' dtype."""
    return torch.cat([_draw(x, generator) for x in torch.split(logits_NV, CHUNK)])


@torch.no_grad()
def sample_linear(hidden_NH: Tensor, weight_VH: Tensor, generator: Generator) -> Tensor:
    """One word of each row of `softmax(hidden @ weight.T)` (N,); the logits never exist as a whole.

    The draws are those of `sample_logits` with the same generator, also under autocast.
    """
    weight_VH = weight_VH.to(compute_dtype(hidden_NH))  # once, where autocast would for every chunk
    return torch.cat([sample_logits(x @ weight_VH.t(), generator) for x in torch.split(hidden_NH, CHUNK)])


def _draw(logits_CV: Tensor, generator: Generator) -> Tensor:
    """One word of each row (C,) by one uniform number a row: first its block, then its place in the block.

    `torch.multinomial` takes a random number for every word of the vocabulary, which costs more than the logits.
    """
    logits_CV = nn.functional.pad(logits_CV, (0, -logits_CV.shape[1] % BLOCK), value=-torch.inf)
    top_C1 = logits_CV.amax(1, keepdim=True).float()
    logits_CKB = logits_CV.view(len(logits_CV), -1, BLOCK)
    dtype = sum_dtype(logits_CV.device)
    block_CK = _block_sums(logits_CKB, top_C1, dtype)
    level_C1 = torch.rand(len(logits_CV), 1, dtype=dtype, device=logits_CV.device, generator=generator)
    level_C1 = level_C1 * block_CK.sum(1, keepdim=True)
    upto_CK = _upto(block_CK)
    number_C1 = _place(upto_CK, level_C1)
    below_C1 = upto_CK.gather(1, number_C1) - block_CK.gather(1, number_C1)
    inside_CB = (logits_CKB[torch.arange(len(logits_CKB)), number_C1[:, 0]].float() - top_C1).exp().to(dtype)
    place_C1 = _place(_upto(inside_CB), level_C1 - below_C1)
    return (number_C1 * BLOCK + place_C1)[:, 0]


def _block_sums(logits_CKB: Tensor, top_C1: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums of `exp(logit - top)` over each block (C, K); a few rows at a time, which stay in a CPU's cache."""
    rows = max(1, CACHED // logits_CKB[0].numel()) if logits_CKB.device.type == "cpu" else len(logits_CKB)
    parts = zip(logits_CKB.split(rows), top_C1.split(rows), strict=True)
    return torch.cat([(x.float() - top[..., None]).exp_().sum(2, dtype=dtype) for x, top in parts])


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

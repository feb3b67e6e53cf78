"""Words drawn from a model's own predictions.

N predicted tokens, H hidden size, V vocabulary.
"""

import torch
from torch import Generator, Tensor

__all__ = ["sample_linear", "sample_logits"]

CHUNK = 256  # rows of probabilities that exist at a time


@torch.no_grad()
def sample_logits(logits_NV: Tensor, generator: Generator) -> Tensor:
    """One word of each row's softmax (N,), int64. Probabilities are float32 whatever the logits' dtype."""
    rows = [torch.multinomial(x.float().softmax(1), 1, generator=generator) for x in torch.split(logits_NV, CHUNK)]
    return torch.cat(rows)[:, 0]


@torch.no_grad()
def sample_linear(hidden_NH: Tensor, weight_VH: Tensor, generator: Generator) -> Tensor:
    """One word of each row of `softmax(hidden @ weight.T)` (N,); the logits never exist as a whole.

    The draws are those of `sample_logits` with the same generator, also under autocast.
    """
    return torch.cat([sample_logits(x @ weight_VH.t(), generator) for x in torch.split(hidden_NH, CHUNK)])

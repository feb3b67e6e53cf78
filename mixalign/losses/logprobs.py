"""Log-probabilities of completions, from hidden states or from logits."""

import torch
from torch import Tensor

from mixalign.types import sum_dtype

__all__ = ["gather_logprobs", "sum_by_sequence"]


def gather_logprobs(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """Log-probability of each target token, in nats, (N,), float32 whatever the logits' dtype.

    The softmax is taken in float32: in 16 bits a sum over a few hundred tokens is off by whole nats.
    """
    logits_NV = logits_NV.float()
    return logits_NV.gather(1, target_N[:, None])[:, 0] - logits_NV.logsumexp(1)


def sum_by_sequence(logp_N: Tensor, sequence_N: Tensor, num_sequences: int) -> Tensor:
    """Sums token log-probabilities to one number a sequence, (num_sequences,), in float64.

    float32 loses about 6e-5 on sums near 1000 nats, which is visible in a DPO margin.
    """
    dtype = sum_dtype(logp_N.device)
    return torch.zeros(num_sequences, dtype=dtype, device=logp_N.device).index_add(0, sequence_N, logp_N.to(dtype))

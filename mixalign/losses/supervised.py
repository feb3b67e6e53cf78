"""Supervised losses: log-probabilities in, one loss a row out."""

from torch import Tensor

__all__ = ["mean_cross_entropy"]


def mean_cross_entropy(logp_B: Tensor, num_tokens_B: Tensor) -> Tensor:
    """Cross-entropy of each row averaged over its supervised tokens, in nats a token, shape (B,).

    Every row counts the same whatever its length, so that a task with long answers does not outweigh the
    others by length alone.
    """
    return -logp_B / num_tokens_B

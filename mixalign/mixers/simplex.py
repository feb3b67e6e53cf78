"""Arithmetic on the probability simplex, in log space and float64."""

import torch
from torch import Tensor

__all__ = ["ascend", "mix_uniform", "normalise", "uniform"]


def uniform(num_tasks: int) -> Tensor:
    """Equal weights, (K,)."""
    return torch.full((num_tasks,), 1 / num_tasks, dtype=torch.float64)


def normalise(weight_K: Tensor) -> Tensor:
    """Scales non-negative weights to sum to 1."""
    weight_K = weight_K.to(torch.float64)
    return weight_K / weight_K.sum()


def ascend(log_K: Tensor, gain_K: Tensor, eta: float) -> Tensor:
    """One step of exponentiated gradient ascent: the log of `w_i exp(eta gain_i)`, normalised.

    A task whose gain is nan was not measured: it keeps its share, and the others divide the rest. One whose weight is 0
    keeps that as well.
    """
    known_K = ~gain_K.isnan() & (log_K > -torch.inf)
    step_K = torch.where(known_K, log_K + eta * gain_K, -torch.inf)
    rest = log_K[known_K].logsumexp(0)
    return torch.where(known_K, step_K - step_K.logsumexp(0) + rest, log_K)


def mix_uniform(weight_K: Tensor, share: float) -> Tensor:
    """`(1 - share) * weight + share / K`: no task falls below share / K."""
    return (1 - share) * weight_K + share / len(weight_K)

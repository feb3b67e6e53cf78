"""Formulas that merge the weights of M models, one tensor of all models at a time.

Suffix: `M` models, in front of the parameter's own shape. `theta` are weights, `tau = theta - base` task vectors.
`linear` and `slerp` take `theta_M` and give merged weights; the others take `tau_M` and give a merged task vector,
which the caller multiplies by lambda (`Merge.scale`) and adds to the base. Every tensor is float32.

Weights are 1/M each unless given, so that task arithmetic with lambda 1 is the uniform soup; the plain sum of task
vectors of arXiv 2212.04089 is lambda M.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

__all__ = [
    "dare_linear",
    "dare_ties",
    "drop_and_rescale",
    "keep_largest",
    "least_kept",
    "linear",
    "slerp",
    "task_arithmetic",
    "ties",
]

PARALLEL = 0.9995  # |cos| from which SLERP is linear interpolation: sin of the angle is too small to divide by


def linear(theta_M: Tensor, weight_M: Tensor) -> Tensor:
    """Model soup (arXiv 2203.05482): `sum_i w_i theta_i / sum_i w_i`."""
    return task_arithmetic(theta_M, weight_M, normalise=True)


def slerp(theta_M: Tensor, weight_M: Tensor) -> Tensor:
    """Point on the arc between two flattened tensors, `t = w_1 / (w_0 + w_1)` of the way from the first.

    `sin((1-t) O) / sin O theta_0 + sin(t O) / sin O theta_1`, O the angle between them; their norms are kept. Linear
    where |cos O| is above 0.9995 or a tensor is zero. The angle is that of the weights, not of task vectors, as in
    mergekit: models fine-tuned from one base are nearly parallel, so that this is `linear` for most of their tensors.
    """
    assert len(theta_M) == 2
    t = float(weight_M[1] / weight_M.sum())
    a, b = theta_M
    norms = a.norm() * b.norm()
    cos = float((a * b).sum(dtype=torch.float64) / norms) if norms > 0 else 1.0
    if abs(cos) > PARALLEL:
        mixed: Tensor = (1 - t) * a + t * b
    else:
        angle = math.acos(cos)
        mixed = (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)
    return mixed


def task_arithmetic(tau_M: Tensor, weight_M: Tensor, *, normalise: bool = False) -> Tensor:
    """`sum_i w_i tau_i` (arXiv 2212.04089); `normalise` divides by `sum_i w_i`."""
    total: Tensor = torch.tensordot(weight_M, tau_M, 1)
    return total / weight_M.sum() if normalise else total


def ties(
    tau_M: Tensor,
    weight_M: Tensor,
    *,
    density: float,
    threshold_M: Sequence[float] | None = None,
    normalise: bool = True,
) -> Tensor:
    """Trim, elect signs, average those that agree (arXiv 2306.01708, algorithm 1).

    Trim keeps the entries of largest magnitude of each task vector. The elected sign of an entry is that of
    `sum_i w_i tau_i`; the result is `sum_i w_i tau_i / sum_i w_i` over the models with this sign (0 where the sum
    is 0). The paper has no weights: at equal ones this is its unweighted mean over the models that agree.

    Args:
        density: share of entries that are kept, of this tensor alone.
        threshold_M: the least magnitudes that are kept, when the share is one of the whole model.
        normalise: whether to divide by the weights of the models that agree.
    """
    if threshold_M is None:
        kept = [keep_largest(tau, density) for tau in tau_M]
    else:
        kept = [tau.where(tau.abs() >= least, 0.0) for tau, least in zip(tau_M, threshold_M, strict=True)]
    return _elect(torch.stack(kept), weight_M, normalise)


def dare_linear(
    tau_M: Tensor,
    weight_M: Tensor,
    *,
    density: float,
    seed_M: Sequence[int],
    rescale: str = "density",
    normalise: bool = False,
) -> Tensor:
    """Drop and rescale (arXiv 2311.03099), then task arithmetic; for the arguments see `drop_and_rescale`."""
    kept = [drop_and_rescale(tau, density, seed, rescale) for tau, seed in zip(tau_M, seed_M, strict=True)]
    return task_arithmetic(torch.stack(kept), weight_M, normalise=normalise)


def dare_ties(
    tau_M: Tensor,
    weight_M: Tensor,
    *,
    density: float,
    seed_M: Sequence[int],
    rescale: str = "density",
    normalise: bool = True,
) -> Tensor:
    """Drop and rescale in place of TIES' trim (arXiv 2311.03099), then its election and average.

    The average is TIES' own. mergekit's `dare_ties` leaves out the division unless told: `normalise=False`.
    """
    kept = [drop_and_rescale(tau, density, seed, rescale) for tau, seed in zip(tau_M, seed_M, strict=True)]
    return _elect(torch.stack(kept), weight_M, normalise)


def keep_largest(tau: Tensor, density: float) -> Tensor:
    """The tensor with all but its `max(1, floor(density * size))` largest magnitudes 0; equal ones stay together."""
    if density >= 1 or not tau.numel():
        return tau
    size = tau.abs().flatten()
    least = size.kthvalue(size.numel() - max(1, int(density * size.numel())) + 1).values
    return tau.where(tau.abs() >= least, 0.0)


def least_kept(tensors: Callable[[], Iterable[Tensor]], density: float) -> float:
    """The `max(1, floor(density * size))`-th largest magnitude of all tensors together, exactly.

    float32 magnitudes are ordered as their bits are, so that two passes that count bits find it: one over the upper
    16, one over the lower 15 of those in the bucket where it lies. Memory is one tensor's.

    Args:
        tensors: gives the same float32 tensors at every call.
    """
    upper = _count(tensors, lambda bits: bits >> 15, 1 << 16)
    bucket, rank = _from_the_top(upper, max(1, int(density * int(upper.sum()))))
    lower = _count(tensors, lambda bits: (bits & 0x7FFF)[bits >> 15 == bucket], 1 << 15)
    bits = bucket << 15 | _from_the_top(lower, rank)[0]
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))


def _count(tensors: Callable[[], Iterable[Tensor]], digit: Callable[[Tensor], Tensor], size: int) -> Tensor:
    counts = torch.zeros(size, dtype=torch.int64)
    for tensor in tensors():
        counts += torch.bincount(digit(tensor.abs().flatten().view(torch.int32)), minlength=size)
    return counts


def _from_the_top(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bucket that holds the item of this rank (1 is the largest), and its rank within the bucket."""
    above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, rank))
    return len(counts) - 1 - place, rank - (int(above[place - 1]) if place else 0)


def drop_and_rescale(tau: Tensor, density: float, seed: int, rescale: str = "density") -> Tensor:
    """Keeps each entry with probability `density` = 1 - p, and makes up for the others (arXiv 2311.03099).

    Args:
        seed: of the mask; drawn on the CPU, so that it is the same everywhere.
        rescale: `density` divides by it, as the paper does: the expectation is `tau`. `l1` restores the l1 norm of
            this tensor, as mergekit does by default. `none` leaves the kept entries alone.
    """
    if density >= 1:
        return tau
    mask = torch.bernoulli(torch.full(tau.shape, density), generator=torch.Generator().manual_seed(seed))
    kept = tau * mask.to(tau.device)
    if rescale == "density":
        return kept / density
    if rescale == "l1" and kept.any():
        return kept * (tau.abs().sum() / kept.abs().sum())
    return kept


def _elect(tau_M: Tensor, weight_M: Tensor, normalise: bool) -> Tensor:
    """Steps 2 and 3 of TIES: the sign of the weighted sum, then the mean of the entries that have it."""
    weight_M = weight_M.view(-1, *[1] * (tau_M.dim() - 1))
    tau_M = tau_M * weight_M
    sign = tau_M.sum(0).sign()
    agrees_M = (tau_M.sign() == sign) & (sign != 0)
    total = (tau_M * agrees_M).sum(0)
    if not normalise:
        return total
    divisor = (weight_M * agrees_M).sum(0)
    return total / divisor.where(divisor != 0, 1.0)

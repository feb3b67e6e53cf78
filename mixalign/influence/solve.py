"""Inverse curvature times a gradient, one layer after the other.

A gradient is one matrix (O, I) for each layer, by the layer's name. Layers are independent of each other: curvature
between them is left out, as in K-FAC.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf
from typing import NamedTuple

import torch
from torch import Tensor

from mixalign.models.precision import sum_dtype

__all__ = ["Basis", "Block", "Gradient", "dot", "flattest", "solve"]

Gradient = Mapping[str, Tensor]


class Basis(NamedTuple):
    """Eigenvectors (columns) of a layer's two factors, and their eigenvalues, ascending.

    `output_O[o] * input_I[i]` is K-FAC's curvature along the outer product of the two eigenvectors.
    """

    input_II: Tensor
    output_OO: Tensor
    input_I: Tensor
    output_O: Tensor


@dataclass(frozen=True)
class Block:
    """The curvature of one layer: eigenvectors and what it is along each pair of them.

    Attributes:
        basis: the eigenvectors.
        curvature_OI: along each pair: `Spectrum` for EK-FAC, the product of the eigenvalues for K-FAC.
    """

    basis: Basis
    curvature_OI: Tensor

    @classmethod
    def kfac(cls, basis: Basis) -> "Block":
        return cls(basis, torch.outer(basis.output_O, basis.input_I))

    def solve(self, gradient_OI: Tensor, damping: float) -> Tensor:
        """`(H + d)^-1 g` with d = damping * mean curvature: `Q_O [(Q_O' g Q_I) / (curvature + d)] Q_I'`."""
        left_OO, right_II = self.basis.output_OO, self.basis.input_II
        bottom_OI = self.curvature_OI + damping * self.curvature_OI.mean()
        # a layer that nothing reads yet (the first factor of a fresh adapter) has no curvature and no gradient
        bottom_OI = bottom_OI.clamp_min(torch.finfo(bottom_OI.dtype).tiny)
        return left_OO @ ((left_OO.t() @ gradient_OI @ right_II) / bottom_OI) @ right_II.t()

    def unevenness(self) -> float:
        """Variance of the curvature over the square of its mean; infinite for a layer without any."""
        mean = self.curvature_OI.mean()
        return float((self.curvature_OI / mean).var(correction=0)) if mean > 0 else inf


def solve(blocks: Mapping[str, Block] | None, gradient: Gradient, damping: float) -> dict[str, Tensor]:
    """Inverse curvature times the gradient, of the layers that have a block; None is the identity.

    Args:
        damping: added to a layer's curvature, as a share of its mean.
    """
    if blocks is None:
        return dict(gradient)
    return {name: block.solve(gradient[name], damping) for name, block in blocks.items()}


def flattest(blocks: Mapping[str, Block], share: float) -> dict[str, Block]:
    """The blocks of this share of the layers, those of the most even curvature: IDEAL's important layers."""
    ranked = sorted(blocks, key=lambda name: blocks[name].unevenness())
    kept = set(ranked[: ceil(share * len(ranked))])
    return {name: block for name, block in blocks.items() if name in kept}


def dot(a: Gradient, b: Gradient) -> float:
    """Inner product over the layers of `a`, summed in float64."""
    return float(sum((a[name] * b[name]).sum(dtype=sum_dtype(a[name].device)) for name in a))

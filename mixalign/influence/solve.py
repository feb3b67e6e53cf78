"""Inverse curvature times a gradient, one layer after the other.

A gradient is one matrix (O, I) for each layer, by the layer's name. Layers are independent of each other: curvature
between them is left out, as in K-FAC.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import NamedTuple

import torch
from torch import Tensor

from mixalign.types import sum_dtype

__all__ = ["Basis", "Block", "Gradient", "dot", "flattest", "joined", "solve"]

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
        level: what damping is a share of; None: the mean curvature of the layer.
    """

    basis: Basis
    curvature_OI: Tensor
    level: Tensor | None = None

    @classmethod
    def kfac(cls, basis: Basis) -> "Block":
        return cls(basis, torch.outer(basis.output_O, basis.input_I))

    def solve(self, gradient_OI: Tensor, damping: float) -> Tensor:
        """`(H + d)^-1 g` with d = damping * level: `Q_O [(Q_O' g Q_I) / (curvature + d)] Q_I'`."""
        left_OO, right_II = self.basis.output_OO, self.basis.input_II
        bottom_OI = self.curvature_OI + damping * (self.curvature_OI.mean() if self.level is None else self.level)
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
        damping: added to a layer's curvature, as a share of its level.
    """
    if blocks is None:
        return dict(gradient)
    return {name: block.solve(gradient[name], damping) for name, block in blocks.items()}


def joined(blocks: Mapping[str, Block]) -> dict[str, Block]:
    """The blocks with one level of damping for the two factors of an adapter: the mean over the weights of both.

    LoRA's B starts at 0, and W = W0 + s B A: the gradient by A is `s B' G` and its curvature `s^2 (B' H_O B) (x) H_I`,
    for G, H_O and H_I of the merged weight. Both vanish with B, and a damping that is a share of A's own curvature
    vanishes with them. The product `g' (H + d)^-1 g` then has a limit that does not depend on how small B is: A counts
    as if it could be moved by 1 / |B|, where no training takes it. That is about half of the scores of an adapter
    which has hardly been trained, and noise.

    A damped step minimises `g'x + x'Hx / 2 + d |x|^2 / 2`. With one d for both factors, which one optimiser moves by
    one learning rate, A's part is `|s B' G|^2 / d`: it falls as |B|^2 and grows into its own as B does. One d is not
    the same for A / c and c B, which are the same weights, and no more is a training.

    A factor whose partner is not among the blocks, and a layer that is no adapter, keep the mean of their own.
    """
    return {name: replace(block, level=_level(blocks, name)) for name, block in blocks.items()}


def _level(blocks: Mapping[str, Block], name: str) -> Tensor | None:
    pair = [blocks[n] for n in (name, _partner(name)) if n in blocks]
    if len(pair) < 2:
        return None
    total = torch.stack([block.curvature_OI.sum() for block in pair]).sum()
    return total / sum(block.curvature_OI.numel() for block in pair)


def _partner(name: str) -> str:
    """The other factor of an adapter, as PEFT names them; empty for another layer."""
    parts = name.split(".")
    other = {"lora_A": "lora_B", "lora_B": "lora_A"}
    return ".".join(other.get(part, part) for part in parts) if {*other} & {*parts} else ""


def flattest(blocks: Mapping[str, Block], share: float) -> dict[str, Block]:
    """The blocks of this share of the layers, those of the most even curvature: IDEAL's important layers."""
    ranked = sorted(blocks, key=lambda name: blocks[name].unevenness())
    kept = set(ranked[: ceil(share * len(ranked))])
    return {name: block for name, block in blocks.items() if name in kept}


def dot(a: Gradient, b: Gradient) -> float:
    """Inner product over the layers of `a`, summed in float64."""
    return float(sum((a[name] * b[name]).sum(dtype=sum_dtype(a[name].device)) for name in a))

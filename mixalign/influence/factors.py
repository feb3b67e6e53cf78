"""Kronecker-factored curvature of linear layers, from streams of inputs and output gradients.

A layer's weight is (O, I). x are its inputs and delta its output gradients at P positions, of the loss whose gradients'
second moment is the curvature (`Objective.fisher_loss`). Samples are weighted; weights sum to 1 over all samples.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mixalign.influence.capture import Each
from mixalign.influence.gemm import add_square, matmul
from mixalign.influence.solve import Basis

__all__ = ["Moments", "Reduce", "Spectrum", "zeros"]

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over ranks."""


def zeros(layer: nn.Linear, rows: int, columns: int) -> Tensor:
    """An empty sum on the layer's device, at least float32: 16 bits stop counting at 256."""
    weight = layer.weight
    return torch.zeros(rows, columns, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device)


class Moments:
    """Second moments of inputs and of output gradients over positions: K-FAC's factors (arXiv 1503.05671).

    K-FAC takes positions as uncorrelated, and inputs as independent of gradients: the curvature of a sample is then the
    sum of `delta delta'` over its positions times the mean of `x x'`. Here that mean is weighted by `|delta|^2`, which
    is right where the two are independent and makes the factors' product keep `sum_t |delta_t|^2 x_t x_t'` where they
    are not. Positions that the loss does not depend on (padding, filler, what comes behind the last supervised token)
    so drop out by themselves, and those of a prompt count by what attention hands back to them.

    With the positions that predict a supervised token alone, K-FAC followed the Gauss-Newton matrix of a small model
    no better than the plain product on prompts of eight tokens with answers of one: correlations of 0.62 and 0.65,
    0.89 and 0.92 as it is here, 0.87 and 0.91 with the unweighted mean.
    """

    def __init__(self, layers: Mapping[str, nn.Linear]) -> None:
        # of these sums the lower triangle counts
        self.input_II = {n: zeros(layer, layer.in_features, layer.in_features) for n, layer in layers.items()}
        self.output_OO = {n: zeros(layer, layer.out_features, layer.out_features) for n, layer in layers.items()}

    def at(self, weight: float) -> Each:
        """Adds the positions of a batch, of samples that have this weight each."""

        def each(name: str, x_PI: Tensor, delta_PO: Tensor) -> None:
            scaled_PI = x_PI * delta_PO.norm(dim=1, keepdim=True)
            add_square(self.input_II[name], scaled_PI, weight)
            add_square(self.output_OO[name], delta_PO, weight)

        return each

    def bases(self, reduce: Reduce) -> dict[str, Basis]:
        """The eigenvectors of each layer's sums over all ranks."""
        return {name: self._basis(name, reduce) for name in self.input_II}

    def _basis(self, name: str, reduce: Reduce) -> Basis:
        output_OO = reduce(self.output_OO[name])
        # a layer that nothing reads yet (the first factor of a fresh adapter) has no gradient at all
        size = output_OO.trace().clamp_min(torch.finfo(output_OO.dtype).tiny)
        input_I, vector_II = _eigh(reduce(self.input_II[name]) / size)
        output_O, vector_OO = _eigh(output_OO)
        return Basis(vector_II, vector_OO, input_I, output_O)


def _eigh(matrix_DD: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a symmetric matrix, found in float64 from its lower triangle."""
    wide = matrix_DD.to("cpu" if matrix_DD.device.type == "mps" else matrix_DD.device, torch.float64)
    value_D, vector_DD = torch.linalg.eigh(wide)
    return value_D.clamp_min(0).to(matrix_DD), vector_DD.to(matrix_DD)


class Spectrum:
    """EK-FAC's curvature along each pair of eigenvectors, (O, I) a layer (arXiv 1806.03884, 2308.03296).

    It is the second moment of the samples' own gradients in K-FAC's basis, `sum_n weight_n (Q_O' G_n Q_I)^2`, in place
    of the product of the factors' eigenvalues. All positions of a sample are part of its gradient, those of the prompt
    too. A few of the rows are not enough: from a quarter, scores of trained models come out at up to 2.6 times their
    size.
    """

    def __init__(self, bases: Mapping[str, Basis]) -> None:
        self.bases = bases
        self.sum_OI = {n: torch.outer(torch.zeros_like(b.output_O), b.input_I) for n, b in bases.items()}

    def at(self, samples: Sequence[slice], weight: float) -> Each:
        """Adds the samples at these positions of a batch, of this weight each; one gradient exists at a time."""

        def each(name: str, x_PI: Tensor, delta_PO: Tensor) -> None:
            basis = self.bases[name]
            turned_PI, turned_PO = matmul(x_PI, basis.input_II), matmul(delta_PO, basis.output_OO)
            for span in samples:
                gradient_OI = matmul(turned_PO[span].t(), turned_PI[span]).to(self.sum_OI[name].dtype)
                self.sum_OI[name].addcmul_(gradient_OI, gradient_OI, value=weight)

        return each

    def moments(self, reduce: Reduce) -> dict[str, Tensor]:
        """The sums over all ranks, (O, I) a layer."""
        return {name: reduce(self.sum_OI[name]) for name in self.bases}

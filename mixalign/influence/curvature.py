"""The curvatures by which influence weighs a layer's gradients; `influence.curvature` names an entry of the table."""

from collections.abc import Callable
from dataclasses import dataclass

from mixalign.influence.solve import Block

__all__ = ["CURVATURES", "Curvature"]


@dataclass(frozen=True)
class Curvature:
    """How the block of a layer follows from what was measured.

    Attributes:
        block: from the layer's `Basis`, the eigenvectors of its factors; None where nothing is measured.
        spectrum: whether the rows are read once more, for the curvature along each pair of eigenvectors (O, I), which
            `block` then gets as well: see `mixalign.influence.factors.Spectrum`.
    """

    block: Callable[..., Block] | None
    spectrum: bool = False


CURVATURES = {
    "identity": Curvature(None),  # the plain inner product of gradients
    "kfac": Curvature(Block.kfac),  # arXiv 1503.05671
    "ekfac": Curvature(Block, spectrum=True),  # arXiv 1806.03884, 2308.03296
}

"""Sums in float32 of matrix products whose factors have 16 or 32 bits.

A model in mixed precision hands over what its layers multiplied in bfloat16, and multiplying that as float32 takes
several times as long on processors that multiply in bfloat16. A product is rounded to bfloat16 at most once, as the
gradient of a weight is in training; sums of products are kept in float32.
"""

import torch
from torch import Tensor

__all__ = ["add_product", "add_square", "matmul"]

BLOCK = 256  # rows of a square that are made at a time, up to the diagonal
IS_WIDE = "dtype" in torch.ops.aten.mm.overloads()  # since torch 2.8


def matmul(a_MN: Tensor, b_NL: Tensor) -> Tensor:
    """The product (M, L) in the type of `a_MN`, which `b_NL` is cast to."""
    return a_MN @ b_NL.to(a_MN.dtype)


def add_product(sum_MN: Tensor, a_PM: Tensor, b_PN: Tensor, weight: float = 1.0) -> None:
    """Adds `weight * a' b` to a sum, in place.

    Args:
        sum_MN: float32 or wider.
        a_PM: of one type with `b_PN`.
    """
    if a_PM.dtype == torch.bfloat16:
        sum_MN.add_(_wide(a_PM.t(), b_PN), alpha=weight)
    else:
        sum_MN.addmm_(a_PM.t(), b_PN, alpha=weight)


def add_square(sum_DD: Tensor, a_PD: Tensor, weight: float = 1.0) -> None:
    """Adds the lower triangle of `weight * a' a` to a sum, in place; what is above it is left undefined."""
    for start in range(0, a_PD.shape[1], BLOCK):
        end = start + BLOCK
        add_product(sum_DD[start:end, :end], a_PD[:, start:end], a_PD[:, :end], weight)


def _wide(a_MN: Tensor, b_NL: Tensor) -> Tensor:
    """The product in float32, where torch and the device have it (CUDA), else rounded once."""
    return torch.mm(a_MN, b_NL, out_dtype=torch.float32) if IS_WIDE and a_MN.is_cuda else a_MN @ b_NL

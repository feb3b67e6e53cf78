"""The curvature of a loss of a few numbers, as something that has a gradient.

B samples, S numbers that the loss of a sample reads.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

__all__ = ["draw_slopes"]


def draw_slopes(loss: Callable[[Tensor], Tensor], x_BS: Tensor, generator: Generator) -> Tensor:
    """Random slopes s (B, S) whose second moment E[s s'] is the convex part of each sample's second derivative.

    `(s * x).sum(1)` is then a loss whose gradients have the generalised Gauss-Newton matrix `J' H J` as their second
    moment (J the derivative of x by the weights), as those of a loss on drawn labels have. With H = sum_s l_s v_s v_s',
    a draw is `sum_s (+-1) sqrt(max(l_s, 0)) v_s`; for a loss of one number that is `+- sqrt(max(l'', 0))`.

    Args:
        loss: from (B, S) to (B,); samples do not touch each other.
        x_BS: where; without a gradient.
    """

    def derivative(x_BS: Tensor) -> Tensor:
        slope_BS: Tensor = torch.func.grad(lambda x: loss(x).sum())(x_BS)
        return slope_BS

    columns = [torch.func.grad(lambda x, s=s: derivative(x)[:, s].sum())(x_BS) for s in range(x_BS.shape[1])]
    value_BS, vector_BSS = torch.linalg.eigh(torch.stack(columns, 2).cpu())  # not on Apple's GPUs
    sign_BS = torch.randint(0, 2, x_BS.shape, generator=generator, device=x_BS.device) * 2 - 1
    root_BS = value_BS.clamp_min(0).sqrt().to(x_BS)
    slope_BS: Tensor = vector_BSS.to(x_BS) @ (sign_BS * root_BS)[..., None]
    return slope_BS[..., 0]

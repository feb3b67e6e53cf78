"""The loss of single answers with a verdict (KTO, arXiv 2402.01306)."""

import torch
from torch import Tensor

__all__ = ["kl_estimate", "kto"]

LEAST = 1e-30  # sum of weights that is divided by


def kto(ratio_B: Tensor, kl: Tensor | float, desirable_B: Tensor, beta_B: Tensor) -> tuple[Tensor, Tensor]:
    """`1 - sigmoid(h)` and h, (B,), with h = beta * (ratio - kl), of the other sign for undesirable ones (eq. 7).

    At the reference policy the loss is 1/2. With kl = 0 it is APO-zero of single answers (arXiv 2408.06266), which
    TRL calls `apo_zero_unpaired`.

    Args:
        ratio_B: log p of a completion under the policy minus that under the reference policy, sums over tokens, nats.
        kl: what the ratio is measured from, nats.
        desirable_B: bool.
        beta_B: how soon a completion counts as good enough.
    """
    h_B = torch.where(desirable_B, 1.0, -1.0) * beta_B * (ratio_B - kl)
    return torch.sigmoid(-h_B), h_B


def kl_estimate(ratio_B: Tensor, weight_B: Tensor | None = None) -> Tensor:
    """How far the policy is from the reference, nats: the mean ratio of answers to other prompts, at least 0, detached.

    The paper's estimate, which TRL takes too: it is no KL divergence, as the answers are not the policy's own, but a
    point that moves with the policy without a gradient.

    Args:
        weight_B: what each ratio counts in the mean; None: the same. Where all are 0 the estimate is 0.
    """
    if weight_B is None:
        return ratio_B.detach().mean().clamp_min(0)
    wide_B = weight_B.to(ratio_B)
    return ((wide_B * ratio_B.detach()).sum() / wide_B.sum().clamp_min(LEAST)).clamp_min(0)

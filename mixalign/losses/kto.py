"""The loss of single answers with a verdict (KTO, arXiv 2402.01306)."""

import torch
from torch import Tensor

__all__ = ["kl_estimate", "kl_sums", "kto"]

LEAST = 1e-30  # sum of weights that is divided by


def kto(ratio_B: Tensor, kl_B: Tensor | float, desirable_B: Tensor, beta_B: Tensor) -> tuple[Tensor, Tensor]:
    """`1 - sigmoid(h)` and h, (B,), with h = beta * (ratio - kl), of the other sign for undesirable ones (eq. 7).

    At the reference policy the loss is 1/2. With kl = 0 it is APO-zero of single answers (arXiv 2408.06266), which
    TRL calls `apo_zero_unpaired`.

    Args:
        ratio_B: log p of a completion under the policy minus that under the reference policy, sums over tokens, nats.
        kl_B: what each ratio is measured from, nats.
        desirable_B: bool.
        beta_B: how soon a completion counts as good enough.
    """
    h_B = torch.where(desirable_B, 1.0, -1.0) * beta_B * (ratio_B - kl_B)
    return torch.sigmoid(-h_B), h_B


def kl_sums(ratio_B: Tensor, task_B: Tensor, num_tasks: int, weight_B: Tensor | None = None) -> Tensor:
    """Sums by task of the ratios of answers to other prompts, and of what each counts, (2, K), detached.

    Sums of batches and of processes are added up before `kl_estimate` takes the mean.

    Args:
        weight_B: what each ratio counts in the mean; None: the same.
    """
    ratio_B = ratio_B.detach()
    one_B = torch.ones_like(ratio_B) if weight_B is None else weight_B.to(ratio_B)
    sums_2K = torch.zeros(2, num_tasks, dtype=ratio_B.dtype, device=ratio_B.device)
    return sums_2K.index_add_(1, task_B, torch.stack([one_B * ratio_B, one_B]))


def kl_estimate(sums_2K: Tensor) -> Tensor:
    """How far the policy is from the reference on each task (K,), nats: the mean ratio of `kl_sums`, at least 0.

    The paper's estimate, which TRL takes too: it is no KL divergence, as the answers are not the policy's own, but a
    point that moves with the policy without a gradient. It is 0 for a task without a ratio that counts.
    """
    return (sums_2K[0] / sums_2K[1].clamp_min(LEAST)).clamp_min(0)

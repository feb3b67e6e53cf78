"""Preference losses: reference-corrected margins in, one loss a pair out."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["dpo"]


def dpo(log_ratio_B: Tensor, beta_B: Tensor, label_smoothing_B: Tensor) -> Tensor:
    """The DPO loss of each pair, in nats, shape (B,) (arXiv 2305.18290, equation 7).

    With h = beta * log_ratio: `-(1 - s) log sigmoid(h) - s log sigmoid(-h)`, where the label smoothing s is the
    assumed probability that the two labels are swapped (conservative DPO). At h = 0 it is log 2 for every s.

    Args:
        log_ratio_B: [log p(chosen) - log p(rejected)] of the policy minus the same of the reference policy,
            log-probabilities summed over completion tokens.
        beta_B: strength of the pull to the reference policy.
        label_smoothing_B: s, in [0, 0.5).
    """
    h_B = beta_B * log_ratio_B
    return -(1 - label_smoothing_B) * F.logsigmoid(h_B) - label_smoothing_B * F.logsigmoid(-h_B)

"""Preference losses, one function each, and a dictionary of them by TRL's names.

B pairs, S = 2 completions (chosen, rejected), r = `ratio_BS` = (c, d): how much more log-probability a completion has
under the policy than under the reference policy, nats. In h = beta * (c - d), "sums" are over the completion's tokens,
"means" are the sums divided by their number, and "no reference" takes the policy's log-probability itself.

| loss         | r of a completion   | label_smoothing is     | paper                       | TRL 1.16                 |
|--------------|---------------------|------------------------|-----------------------------|--------------------------|
| sigmoid      | sums                | share of swapped pairs | 2305.18290, eq. 7; cDPO     | equal; no smoothing      |
| robust       | sums                | the same, corrected    | 2403.00409                  | equal                    |
| hinge        | sums                | refused                | 2305.10425, 2309.06657      | equal                    |
| ipo          | means (paper: sums) | refused                | 2310.12036, eq. 17          | equal                    |
| sigmoid_norm | means               | as for sigmoid         | length-normalised DPO       | equal; no smoothing      |
| apo_zero     | sums                | refused                | 2408.06266, eq. 7           | equal                    |
| apo_down     | sums                | refused                | 2408.06266, eq. 8           | equal                    |
| simpo        | means, no reference | as for sigmoid         | 2405.14734, eq. 6           | equal (CPOTrainer)       |
| orpo         | means, no reference | refused                | 2403.07691, eq. 6, 7        | equal but for the NLL    |

`sigmoid` with label smoothing is cDPO (ericmitchell.ai/cdpo.pdf): DPOTrainer ignores the setting there, CPOTrainer
reads it as here. ORPO's NLL is that of the completion's tokens, as in the paper; ORPOTrainer adds the prompt's and
takes the mean over the batch's tokens. Accuracy and margin (in the objective) are those of sums, of means for simpo and
orpo, as TRL logs them; a tie is no win (strict >).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LOSSES", "PreferenceLoss", "PairSettings"]

LEAST_NLL = 1e-7  # the odds of a certain completion are infinite


class PairSettings(NamedTuple):
    """The settings of each pair's task, (B,) each."""

    beta_B: Tensor
    label_smoothing_B: Tensor
    gamma_B: Tensor


def sigmoid(ratio_BS: Tensor, at: PairSettings) -> Tensor:
    """`-(1 - s) log sigmoid(h) - s log sigmoid(-h)`, nats (B,): at h = 0 log 2 for every s.

    The label smoothing s is the assumed probability that the labels of a pair are swapped (conservative DPO): the loss
    is that of the expected label, smallest at sigmoid(h) = 1 - s.
    """
    return _smoothed(at.beta_B * _difference(ratio_BS), at.label_smoothing_B)


def robust(ratio_BS: Tensor, at: PairSettings) -> Tensor:
    """`[-(1 - s) log sigmoid(h) + s log sigmoid(-h)] / (1 - 2s)`, nats (B,); it can be negative.

    If a share s of the pairs is swapped, its expectation is the DPO loss of the right labels.
    """
    h_B, s_B = at.beta_B * _difference(ratio_BS), at.label_smoothing_B
    return (s_B * F.logsigmoid(-h_B) - (1 - s_B) * F.logsigmoid(h_B)) / (1 - 2 * s_B)


def hinge(ratio_BS: Tensor, at: PairSettings) -> Tensor:
    """`max(0, 1 - h)` (B,)."""
    return F.relu(1 - at.beta_B * _difference(ratio_BS))


def ipo(ratio_BS: Tensor, at: PairSettings) -> Tensor:
    """`(c - d - 1 / (2 beta))^2` (B,): at the reference 25 for beta 0.1. The paper's tau is beta.

    Over means and not sums, as TRL has it from the authors: else the aim would be the same for one token as for 1000.
    """
    return (_difference(ratio_BS) - 0.5 / at.beta_B) ** 2


def apo_zero(ratio_BS: Tensor, at: PairSettings) -> Tensor:
    """`1 - sigmoid(beta c) + sigmoid(beta d)` (B,): chosen up, rejected down; for answers better than the model's."""
    reward_BS = at.beta_B[:, None] * ratio_BS
    return torch.sigmoid(-reward_BS[:, 0]) + torch.sigmoid(reward_BS[:, 1])


def apo_down(ratio_BS: Tensor, at: PairSettings) -> Tensor:
    """`sigmoid(beta c) + 1 - sigmoid(h)` (B,): both down, rejected more; for answers worse than the model's."""
    return torch.sigmoid(at.beta_B * ratio_BS[:, 0]) + torch.sigmoid(-at.beta_B * _difference(ratio_BS))


def simpo(ratio_BS: Tensor, at: PairSettings) -> Tensor:
    """`sigmoid` of h - gamma, nats (B,): gamma is the least margin that is asked for, in the unit of h."""
    return _smoothed(at.beta_B * _difference(ratio_BS) - at.gamma_B, at.label_smoothing_B)


def orpo(ratio_BS: Tensor, at: PairSettings) -> Tensor:
    """`-c - beta log sigmoid(log odds(c) - log odds(d))`, nats (B,), with odds(x) = e^x / (1 - e^x).

    The first term is the NLL of the chosen completion, nats a token; the paper's lambda is beta.
    """
    log_p_BS = ratio_BS.clamp_max(-LEAST_NLL)
    log_odds_BS = log_p_BS - torch.log(-torch.expm1(log_p_BS))
    return -ratio_BS[:, 0] - at.beta_B * F.logsigmoid(_difference(log_odds_BS))


def _difference(x_BS: Tensor) -> Tensor:
    return x_BS[:, 0] - x_BS[:, 1]


def _smoothed(h_B: Tensor, s_B: Tensor) -> Tensor:
    return -(1 - s_B) * F.logsigmoid(h_B) - s_B * F.logsigmoid(-h_B)


class PreferenceLoss(NamedTuple):
    """A loss, and what it wants to know.

    Attributes:
        of: from ratios (B, 2), nats, and settings to the loss (B,).
        uses_reference: whether the ratios are to the reference policy; else they are log-probabilities.
        per_token: whether they are means over tokens; else they are sums.
        smooths: whether it reads the label smoothing.
        is_curved: whether it has a second derivative that is not 0.
    """

    of: Callable[[Tensor, PairSettings], Tensor]
    uses_reference: bool = True
    per_token: bool = False
    smooths: bool = False
    is_curved: bool = True


LOSSES = {
    "sigmoid": PreferenceLoss(sigmoid, smooths=True),
    "robust": PreferenceLoss(robust, smooths=True),
    "hinge": PreferenceLoss(hinge, is_curved=False),
    "ipo": PreferenceLoss(ipo, per_token=True),
    "sigmoid_norm": PreferenceLoss(sigmoid, per_token=True, smooths=True),
    "apo_zero": PreferenceLoss(apo_zero),
    "apo_down": PreferenceLoss(apo_down),
    "simpo": PreferenceLoss(simpo, uses_reference=False, per_token=True, smooths=True),
    "orpo": PreferenceLoss(orpo, uses_reference=False, per_token=True),
}

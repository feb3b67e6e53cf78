"""DUMP: a curriculum by upper confidence bounds on a window of each task's signal (arXiv 2504.09710, Algorithm 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mixalign.checks import check_number
from mixalign.mixers.bandit import SIGNALS, Bandit
from mixalign.mixers.base import Mix, MixSignal, State, read
from mixalign.mixers.simplex import uniform

__all__ = ["DUMP"]


@dataclass(frozen=True)
class DUMP(Bandit):
    """Samples task i with the softmax of `UCB_i / temperature`, `UCB_i = L_i + sqrt(2 ln(N + 1) / (n_i + 1))`.

    L_i is the mean of |advantage| over the last `window` samples of the task in the paper, which calls it the task's
    learnability; n_i of the N samples seen were the task's. Nothing has an advantage without reinforcement learning:
    here L_i is the mean of the signal that `signal` names, of which every step's mean over the task's samples counts
    with its absolute value. Validations and probes measure no batch, so each counts there as one sample of the window.

    Attributes, beside a Bandit's:
        window: samples of a task in L_i; 300 in the published code (ZhentingWang/DUMP).
        temperature: in units of the signal; .1 in the published code.
    """

    window: int = 300
    temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("mixer.window", self.window, 1)
        check_number("mixer.temperature", self.temperature, 1e-6)

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        zero_K = torch.zeros(len(rows_K), dtype=torch.float64)
        # no more than `window` means, each of one sample or more, can reach into the window
        zero_WK = zero_K.expand(int(self.window), -1).clone()
        return Mix(uniform(len(rows_K))), {"value_WK": zero_WK, "weight_WK": zero_WK, "seen_K": zero_K}

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        name = SIGNALS[self.signal]
        value_K = read(signal, name, state["seen_K"]).abs()
        count_K = signal.count_K.to(torch.float64)
        weight_K = signal.counted_K.to(torch.float64) if name in ("loss_K", "excess_K") else torch.ones_like(count_K)
        known_K = ~value_K.isnan() & (weight_K > 0)
        value_WK = _pushed(state["value_WK"], value_K, known_K)
        weight_WK = _pushed(state["weight_WK"], weight_K, known_K)
        seen_K = state["seen_K"] + count_K
        score_K = self._learnability(value_WK, weight_WK) + _bonus(seen_K)
        mix = Mix((score_K / self.temperature).softmax(0))
        return mix, {"value_WK": value_WK, "weight_WK": weight_WK, "seen_K": seen_K}

    def _learnability(self, value_WK: Tensor, weight_WK: Tensor) -> Tensor:
        """Mean over the last `window` samples, (K,); of the oldest step as many as still fit; 0 without any."""
        newer_WK = weight_WK.cumsum(0) - weight_WK
        inside_WK = weight_WK.minimum((self.window - newer_WK).clamp_min(0))
        return (inside_WK * value_WK).sum(0) / inside_WK.sum(0).clamp_min(1)


def _pushed(old_WK: Tensor, new_K: Tensor, known_K: Tensor) -> Tensor:
    """The newest first; a task without a measurement keeps its column."""
    return torch.cat([new_K[None], old_WK[:-1]]).where(known_K, old_WK)


def _bonus(seen_K: Tensor) -> Tensor:
    """What uncertainty adds to a task's score."""
    return (2 * (seen_K.sum().clamp_min(1) + 1).log() / (seen_K + 1)).sqrt()

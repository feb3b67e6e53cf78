"""Velocitune: more of the tasks that are learned more slowly (arXiv 2411.14318), with specialists as targets."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mixalign.checks import check_number
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Composition, DescendsOn, Mix, MixSignal, Rule, State, read
from mixalign.mixers.simplex import ascend, mix_uniform, uniform

__all__ = ["Velocitune"]


@dataclass(frozen=True)
class Velocitune(Rule):
    """Samples by `w_i <- w_i exp(eta V_i)`, V_i the share of its way to the target that task i has still to go.

    `V_i = (l_i - target_i) / (l_init_i - target_i)`, between 0 and 1, on validation losses; so excess counts relative
    to where the task began, not in nats. It changes after a validation (`val_every`).

    Two differences from the paper: the target is the specialist's loss, not a scaling law fitted to a part of the
    data; and l_init is the loss of the first validation, not of the untrained model. A task that is at its target
    in the first validation has V = 0.

    Attributes:
        eta: step size; the paper has 1.
        floor: share that is spread uniformly over the tasks.
    """

    eta: float = 1.0
    floor: float = 0.0

    needs: ClassVar[frozenset[str]] = frozenset({"eval_excess_K"})
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"

    def __post_init__(self) -> None:
        check_number("mixer.eta", self.eta, 0)
        check_number("mixer.floor", self.floor, 0, 1)

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        zero_K = torch.zeros(len(rows_K), dtype=torch.float64)
        return self._mix({"log_w_K": uniform(len(rows_K)).log(), "first_K": zero_K, "seen_K": zero_K})

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        gap_K = read(signal, "eval_excess_K", state["log_w_K"])
        known_K = ~gap_K.isnan()
        first_K = torch.where(known_K & (state["seen_K"] == 0), gap_K, state["first_K"])
        left_K = torch.where(first_K > 0, gap_K / first_K, 0.0).clamp(0, 1)
        log_w_K = ascend(state["log_w_K"], left_K.where(known_K, torch.nan), self.eta)
        return self._mix({"log_w_K": log_w_K, "first_K": first_K, "seen_K": state["seen_K"].maximum(known_K.double())})

    def _mix(self, state: State) -> tuple[Mix, State]:
        return Mix(mix_uniform(state["log_w_K"].exp(), self.floor)), state

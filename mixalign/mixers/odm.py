"""ODM: online data mixing, EXP3 on the training loss (arXiv 2312.02406, Algorithm 1)."""

from dataclasses import dataclass, replace
from math import log, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from mixalign.checks import check_number
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Composition, DescendsOn, Mix, MixSignal, Rule, State, read
from mixalign.mixers.lengths import in_steps, known
from mixalign.mixers.simplex import uniform

__all__ = ["ODM"]


@dataclass(frozen=True)
class ODM(Rule):
    """Samples task i with `pi_i = (1 - K eps_t) softmax(eps_{t-1} R)_i + eps_t`, where R averages its loss.

    `R_i <- decay R_i + (1 - decay) loss_i / pi_i` and `eps_t = min(1 / K, sqrt(ln K / (K t)))` at step t = 1, 2, ...
    The paper draws one task a micro-batch, ours draws each row, so `loss_i / pi_i` is here the importance-weighted
    mean over the batch, whose expectation is the task's loss: an absent task adds 0. It is AMA-S without specialists.

    Two properties of the rule itself: nothing is learned before step K ln K, where eps_t leaves 1 / K; and because R
    is an average, which stays bounded while eps falls, the mixture ends near uniform. `scale` acts against that.

    The published code is not followed: its EXP3 class divides the loss by 10 and sums it without decay, and its
    group path has rewards exp(loss), no importance weight, and weights linear in R.

    Attributes:
        decay: weight of the past in R, the paper's alpha; 0.9 is the published code's.
        scale: factor on the loss; the paper has 1.
        warmup: steps that are sampled uniformly while R is measured; below 1 it is a share of the run.
    """

    decay: float = 0.9
    scale: float = 1.0
    warmup: float = 0.01

    needs: ClassVar[frozenset[str]] = frozenset({"loss_iw_K"})
    composition: ClassVar[Composition] = "multinomial"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"

    def __post_init__(self) -> None:
        check_number("mixer.decay", self.decay, 0, 1)
        check_number("mixer.scale", self.scale, 0)
        check_number("mixer.warmup", self.warmup, 0)

    def for_run(self, tasks: list[str], steps: int) -> "ODM":
        """The rule for a run of that many steps."""
        return replace(self, warmup=in_steps(self.warmup, steps))

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        known("mixer.warmup", self.warmup)
        return Mix(uniform(len(rows_K))), {"reward_K": torch.zeros(len(rows_K), dtype=torch.float64)}

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        loss_K = self.scale * read(signal, "loss_iw_K", state["reward_K"])
        reward_K = self.decay * state["reward_K"] + (1 - self.decay) * loss_K
        reward_K = reward_K.where(~loss_K.isnan(), state["reward_K"])
        return Mix(self._sample(reward_K, signal.step + 1)), {"reward_K": reward_K}

    def _sample(self, reward_K: Tensor, steps: int) -> Tensor:
        """pi of the step that follows `steps` others."""
        num_tasks = len(reward_K)
        if steps < self.warmup:
            return uniform(num_tasks)
        explore = _explore(num_tasks, steps + 1)
        return (1 - num_tasks * explore) * (_explore(num_tasks, steps) * reward_K).softmax(0) + explore


def _explore(num_tasks: int, step: int) -> float:
    """eps_t."""
    return min(1 / num_tasks, sqrt(log(num_tasks) / (num_tasks * step)))

"""DynamixSFT: more of the tasks whose loss one step lowers most, held near a prior (arXiv 2508.12116)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from mixalign.checks import check_number
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Cadence, Composition, DescendsOn, Mix, MixSignal, Rule, State, read
from mixalign.mixers.lengths import in_steps, known
from mixalign.mixers.simplex import mix_uniform
from mixalign.mixers.weights import check_weights, in_order, resolve

__all__ = ["DynamixSFT"]


@dataclass(frozen=True)
class DynamixSFT(Rule):
    """Samples task k with `p_k = (1 - gamma) softmax(beta Q + log p0)_k + gamma / K`, where Q averages its reward.

    The reward is `gain_K`, the share of a task's loss that one trial step on its own rows takes away, scaled so that
    the least of all tasks is 0 and the largest 1: `Q_k <- decay Q_k + (1 - decay) reward_k`, after every `every`
    steps. Q starts at 0, so the first mixture is the prior with its floor, and softmax weighs two tasks by at most
    e^beta against it. Only the order and the spread of gains count, not their size: of gains that are all alike the
    noise is blown up as well, and `decay` is what averages it away.

    No code was published. The optimizer of the trial step is not named in what we could read of the paper; see
    mixalign.training.callbacks.trial_step for ours.

    Attributes:
        prior: p0. `proportional` to rows, as in the paper; `uniform`; a list in the order of the tasks, or one by
            task name. A task with prior 0 is left gamma / K.
        beta: weight of Q; the paper has 4 for a model of 1B parameters and 5 for one of 8B.
        gamma: share that is spread uniformly over the tasks.
        decay: weight of the past in Q.
        every: steps between two trial steps, the paper's T = 50; below 1 it is a share of the run.
    """

    prior: str | Sequence[float] | Mapping[str, float] = "proportional"
    beta: float = 4.0
    gamma: float = 0.3
    decay: float = 0.95
    every: float = 0.05

    needs: ClassVar[frozenset[str]] = frozenset({"gain_K"})
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"
    cadence: ClassVar[Cadence] = "interval"

    def __post_init__(self) -> None:
        check_weights("mixer.prior", self.prior)
        check_number("mixer.beta", self.beta, 0)
        check_number("mixer.gamma", self.gamma, 0, 1)
        check_number("mixer.decay", self.decay, 0, 1)
        check_number("mixer.every", self.every, 0)

    def for_run(self, tasks: list[str], steps: int) -> "DynamixSFT":
        """The rule for a run of that many steps."""
        every = max(1, in_steps(self.every, steps))
        return replace(self, prior=in_order("mixer.prior", self.prior, tasks), every=every)

    def asks(self, step: int) -> bool:
        """After every `every` steps."""
        return step % max(1, known("mixer.every", self.every)) == 0

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        known("mixer.every", self.every)
        prior_K = resolve("mixer.prior", self.prior, rows_K)
        return self._mix({"log_prior_K": prior_K.log(), "reward_K": torch.zeros_like(prior_K)})

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        reward_K = _min_max(read(signal, "gain_K", state["reward_K"]))
        average_K = self.decay * state["reward_K"] + (1 - self.decay) * reward_K
        return self._mix(state | {"reward_K": average_K.where(~reward_K.isnan(), state["reward_K"])})

    def _mix(self, state: State) -> tuple[Mix, State]:
        weight_K = (self.beta * state["reward_K"] + state["log_prior_K"]).softmax(0)
        return Mix(mix_uniform(weight_K, self.gamma)), state


def _min_max(gain_K: Tensor) -> Tensor:
    """Gains on a scale from 0 to 1 over the tasks that have one, 0 for all where they are equal; nan for the others."""
    known_K = gain_K.isfinite()
    if not known_K.any():
        return torch.full_like(gain_K, torch.nan)
    low, high = gain_K[known_K].min(), gain_K[known_K].max()
    scaled_K = (gain_K - low) / (high - low) if high > low else torch.zeros_like(gain_K)
    return scaled_K.where(known_K, torch.nan)

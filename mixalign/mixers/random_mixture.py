"""One random fixed mixture after another, for regressions of the loss on the mixture (RegMix, arXiv 2407.01492)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log
from random import Random
from typing import ClassVar

import torch
from torch import Tensor

from mixalign.checks import check_number
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Composition, DescendsOn, Mix, MixSignal, Rule, State
from mixalign.mixers.simplex import normalise
from mixalign.mixers.weights import check_weights, in_order, resolve

__all__ = ["RandomMixture"]

TRIES = 100  # draws that may repeat a task too often, in a row


@dataclass(frozen=True)
class RandomMixture(Rule):
    """Samples by a mixture from `Dirichlet(strength * prior^(1 / temperature))` that never moves.

    The strength is drawn as well, evenly in its logarithm: small ones give mixtures of few tasks, large ones mixtures
    near the prior. The paper's code picks one of 15 strengths in the same range; it also rounds weights to multiples
    of `minimum`, after which they no longer sum to 1, and here they are not rounded.

    A mixture depends on `seed`, `draw` and the tasks' rows, on nothing else: not on the order of the tasks, unless two
    have equally many rows, nor on torch, the device or the rank.

    Attributes:
        draw: number of the mixture; sweep over it: `mixer.draw=range(0,32)`.
        seed: of the whole row of mixtures.
        prior: `proportional` to rows, `uniform`, a list in the order of the tasks, or one by task name.
        temperature: flattens the prior; the paper's exponent .5 is 2.
        min_strength: least strength.
        max_strength: largest strength.
        max_repeats: a mixture is drawn anew where a task's weight is more than this times its share of all rows: so
            often its rows come up while as many rows are drawn as there are. After 100 such mixtures, the last one is
            moved towards the shares, just as far as the limit asks.
        minimum: smaller weights become 0.
    """

    draw: int = 0
    seed: int = 0
    prior: str | Sequence[float] | Mapping[str, float] = "proportional"
    temperature: float = 2.0
    min_strength: float = 0.1
    max_strength: float = 5.0
    max_repeats: float = 15.0
    minimum: float = 2e-4

    needs: ClassVar[frozenset[str]] = frozenset()
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"
    static: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for key in ("draw", "seed"):
            check_number(f"mixer.{key}", getattr(self, key), 0, whole=True)
        check_weights("mixer.prior", self.prior)
        check_number("mixer.temperature", self.temperature, 1e-3, finite=False)
        check_number("mixer.min_strength", self.min_strength, 1e-6)
        check_number("mixer.max_strength", self.max_strength, self.min_strength)
        check_number("mixer.max_repeats", self.max_repeats, 1, finite=False)
        check_number("mixer.minimum", self.minimum, 0, 1)

    def for_run(self, tasks: list[str], steps: int) -> "RandomMixture":
        """The rule with its prior in the order of the tasks."""
        return replace(self, prior=in_order("mixer.prior", self.prior, tasks))

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        sample_K = self._mixture(rows_K)
        return Mix(sample_K), {"sample_K": sample_K}

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        return Mix(state["sample_K"]), state

    def _mixture(self, rows_K: Tensor) -> Tensor:
        prior_K = resolve("mixer.prior", self.prior, rows_K)
        prior_K = normalise(prior_K ** (1 / self.temperature) * (prior_K > 0))
        share_K = normalise(rows_K)
        rng = Random(f"{int(self.seed)} {int(self.draw)}")
        order = rows_K.argsort(descending=True, stable=True)
        for _ in range(TRIES):
            weight_K = torch.empty_like(prior_K)
            weight_K[order] = self._large(self._dirichlet(prior_K[order], rng))
            if (weight_K <= self.max_repeats * share_K).all():
                return weight_K
        return self._large(_towards(share_K, weight_K, self.max_repeats * share_K))

    def _dirichlet(self, prior_K: Tensor, rng: Random) -> Tensor:
        """One draw, from gamma variates in log space: `gamma(a + 1) * u^(1/a)` would be 0 where a is small."""
        strength = exp(rng.uniform(log(self.min_strength), log(self.max_strength)))
        log_K = torch.full_like(prior_K, -inf)
        for k, a in enumerate((strength * prior_K).tolist()):
            if a > 0:
                log_K[k] = log(rng.gammavariate(a + 1, 1)) + log(1 - rng.random()) / a
        return log_K.softmax(0)

    def _large(self, weight_K: Tensor) -> Tensor:
        """The weights without those below the minimum; the largest one stays in any case."""
        return normalise(weight_K * (weight_K >= min(self.minimum, 1 / len(weight_K))))


def _towards(goal_K: Tensor, weight_K: Tensor, limit_K: Tensor) -> Tensor:
    """The point on the way from the weights to the goal, which is within the limits, where the last limit is met."""
    way_K = ((weight_K - limit_K) / (weight_K - goal_K)).where(weight_K > limit_K, torch.zeros_like(weight_K))
    return torch.lerp(weight_K, goal_K, float(way_K.max()))

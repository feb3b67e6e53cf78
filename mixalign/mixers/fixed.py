"""Static mixtures: uniform, proportional to size, in between, or as given. The baselines to beat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from mixalign.checks import check_number
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Composition, DescendsOn, Mix, MixSignal, Rule, State
from mixalign.mixers.simplex import normalise
from mixalign.mixers.weights import check_weights, in_order, resolve

__all__ = ["Fixed", "Temperature"]


@dataclass(frozen=True)
class Temperature(Rule):
    """Samples task i with probability proportional to n_i^(1/temperature) and never moves.

    temperature 1 is proportional sampling, which is the usual "total loss" over the pooled rows; infinity is
    uniform sampling, which is the task-normalised loss; in between, mT5's compromise (arXiv 2010.11934).
    """

    temperature: float = 3.0

    needs: ClassVar[frozenset[str]] = frozenset()
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"
    static: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("mixer.temperature", self.temperature, 1e-3, finite=False)

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        sample_K = normalise(normalise(rows_K) ** (1 / self.temperature))
        return Mix(sample_K), {"sample_K": sample_K}

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        return Mix(state["sample_K"]), state


@dataclass(frozen=True)
class Fixed(Rule):
    """Samples by weights that are given, and never moves.

    Attributes:
        weights: `uniform`, `proportional` to rows, a list in the order of the tasks, or one by task name; they need
            not sum to 1, and a task without a name has 0.
    """

    weights: str | Sequence[float] | Mapping[str, float] = "uniform"

    needs: ClassVar[frozenset[str]] = frozenset()
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"
    static: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weights("mixer.weights", self.weights)

    def for_run(self, tasks: list[str], steps: int) -> "Fixed":
        """The rule with its weights in the order of the tasks."""
        return replace(self, weights=in_order("mixer.weights", self.weights, tasks))

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        sample_K = resolve("mixer.weights", self.weights, rows_K)
        return Mix(sample_K), {"sample_K": sample_K}

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        return Mix(state["sample_K"]), state

"""Static mixtures: uniform, proportional to size, and in between. The baselines to beat."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mixalign.losses.excess import Clip
from mixalign.mixers.base import Composition, DescendsOn, Mix, MixSignal, State
from mixalign.mixers.checks import check_range
from mixalign.mixers.simplex import normalise

__all__ = ["Temperature"]


@dataclass(frozen=True)
class Temperature:
    """Samples task i with probability proportional to n_i^(1/temperature) and never moves.

    temperature 1 is proportional sampling, which is the usual "total loss" over the pooled rows; infinity is
    uniform sampling, which is the task-normalised loss; in between, mT5's compromise (arXiv 2010.11934).
    """

    temperature: float = 3.0

    needs: ClassVar[frozenset[str]] = frozenset()
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"

    def __post_init__(self) -> None:
        check_range("temperature", self.temperature, 1e-3, finite=False)

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        sample_K = normalise(normalise(rows_K) ** (1 / self.temperature))
        return Mix(sample_K), {"sample_K": sample_K}

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        return Mix(state["sample_K"]), state

"""AMA-R: AutoMixAlign by reweighting (arXiv 2506.00569), on the update of Group DRO (arXiv 1911.08731)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mixalign.checks import check_choice, check_number
from mixalign.losses.excess import CLIPS, Clip
from mixalign.mixers.base import Composition, DescendsOn, Mix, MixSignal, Rule, State, read
from mixalign.mixers.simplex import ascend, mix_uniform, uniform

__all__ = ["AMAR"]


@dataclass(frozen=True)
class AMAR(Rule):
    """Weights each task's mean excess by exponentiated gradient ascent: `alpha_i <- alpha_i exp(eta e_i)`.

    Every batch holds every task in equal numbers, and the model descends on `sum_i alpha_i e_i`. The weights of
    a step come from the excess of the steps before it. A task without a sample keeps its weight.

    Attributes:
        eta: step size, per nat of excess.
        floor: share that is spread uniformly over the tasks; each weight stays at or above floor / K.
        clip: `sample`: mean of max(loss - specialist loss, 0); `task`: max of the mean and 0; `none`.
    """

    eta: float = 0.05
    floor: float = 0.0
    clip: Clip = "sample"

    needs: ClassVar[frozenset[str]] = frozenset({"excess_K"})
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "excess"

    def __post_init__(self) -> None:
        check_number("mixer.eta", self.eta, 0)
        check_number("mixer.floor", self.floor, 0, 1)
        check_choice("mixer.clip", self.clip, CLIPS)

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        return self._mix({"log_q_K": uniform(len(rows_K)).log()})

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        excess_K = read(signal, "excess_K", state["log_q_K"])
        return self._mix({"log_q_K": ascend(state["log_q_K"], excess_K, self.eta)})

    def _mix(self, state: State) -> tuple[Mix, State]:
        q_K = state["log_q_K"].exp()
        return Mix(uniform(len(q_K)), mix_uniform(q_K, self.floor)), state

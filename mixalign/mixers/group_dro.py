"""Group DRO (arXiv 1911.08731, Algorithm 1); on DPO losses it is GR-DPO (arXiv 2405.20304)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mixalign.checks import check_number
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Composition, DescendsOn, Mix, MixSignal, Rule, State, read
from mixalign.mixers.simplex import ascend, mix_uniform, uniform

__all__ = ["GroupDRO"]


@dataclass(frozen=True)
class GroupDRO(Rule):
    """Weights each task's mean loss by `q_i <- q_i exp(eta loss_i)`: AMA-R without specialists.

    It chases raw loss, and so ends with its weight on the task whose noise cannot be learned.

    Attributes:
        eta: step size, per nat of loss.
        floor: share that is spread uniformly over the tasks.
    """

    eta: float = 0.01
    floor: float = 0.0

    needs: ClassVar[frozenset[str]] = frozenset({"loss_K"})
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"

    def __post_init__(self) -> None:
        check_number("mixer.eta", self.eta, 0)
        check_number("mixer.floor", self.floor, 0, 1)

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        return self._mix({"log_q_K": uniform(len(rows_K)).log()})

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        loss_K = read(signal, "loss_K", state["log_q_K"])
        return self._mix({"log_q_K": ascend(state["log_q_K"], loss_K, self.eta)})

    def _mix(self, state: State) -> tuple[Mix, State]:
        q_K = state["log_q_K"].exp()
        return Mix(uniform(len(q_K)), mix_uniform(q_K, self.floor)), state

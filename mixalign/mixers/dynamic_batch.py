"""Dynamic batch loading of Sheared LLaMA: more of the tasks that lag behind their target (arXiv 2310.06694)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mixalign.checks import check_number
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Composition, DescendsOn, Mix, MixSignal, Rule, State, read
from mixalign.mixers.simplex import ascend, mix_uniform, uniform

__all__ = ["DynamicBatch"]


@dataclass(frozen=True)
class DynamicBatch(Rule):
    """Samples task i by `w_i <- w_i exp(eta max(l_i - target_i, 0))` on validation losses (Algorithm 1).

    It changes after a validation (`val_every`). It is to AMA-S what a validation is to a batch: the same excess, over
    all validation rows, rarely; and `velocitune` without the division by where the task began.

    Differences from the paper: the target is the specialist's loss, not one that a scaling law predicts or that the
    model had before it was pruned; and the mixture begins uniform, where the paper begins with the rows' shares
    (`mixer.wrap.prior=proportional`).

    Attributes:
        eta: step size, per nat of excess; the paper has 1.
        floor: share that is spread uniformly over the tasks.
    """

    eta: float = 1.0
    floor: float = 0.0

    needs: ClassVar[frozenset[str]] = frozenset({"eval_excess_K"})
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "task"

    def __post_init__(self) -> None:
        check_number("mixer.eta", self.eta, 0)
        check_number("mixer.floor", self.floor, 0, 1)

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        return self._mix({"log_w_K": uniform(len(rows_K)).log()})

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        excess_K = read(signal, "eval_excess_K", state["log_w_K"])
        return self._mix({"log_w_K": ascend(state["log_w_K"], excess_K, self.eta)})

    def _mix(self, state: State) -> tuple[Mix, State]:
        return Mix(mix_uniform(state["log_w_K"].exp(), self.floor)), state

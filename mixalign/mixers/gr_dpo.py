"""GR-DPO: group robust preference optimisation (arXiv 2405.20304, Algorithm 1), Group DRO on preference losses."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mixalign.checks import check_flag, check_number
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Composition, DescendsOn, Mix, MixSignal, Rule, State, read
from mixalign.mixers.simplex import ascend, normalise, uniform

__all__ = ["GRDPO"]


@dataclass(frozen=True)
class GRDPO(Rule):
    """Weights each task's preference loss by `a_g <- a_g exp(eta l_g)`; the model descends on `sum_g a_g l_g`.

    By default l_g is the task's mean loss, as in the paper, and batches hold every task in equal numbers: this is
    `group_dro`. The paper's code draws rows of the pool, and takes `l_g = N / N_g sum_{b of g} loss_b`, the batch's
    sum scaled by the task's share of the N rows. Its expectation is the batch size times the mean loss, so an eta of
    the code's is worth batch size times as much here; a task without a sample adds 0, as in EXP3.

    The model descends on the task means in both cases, where the code has the noisier sums, of the same expectation.
    The code's cuts of eta on a plateau, and its static weights 1 / N_g (`importance_sampling`), are left out.

    Attributes:
        eta: step size, per nat of l_g.
        size_corrected: takes the code's l_g, and its draws in proportion to the tasks' rows.
    """

    eta: float = 0.01
    size_corrected: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"loss_K"})
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"

    def __post_init__(self) -> None:
        check_number("mixer.eta", self.eta, 0)
        check_flag("mixer.size_corrected", self.size_corrected)

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        equal_K = uniform(len(rows_K))
        return self._mix({"log_a_K": equal_K.log(), "share_K": normalise(rows_K) if self.size_corrected else equal_K})

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        loss_K = read(signal, "loss_K", state["log_a_K"])
        if self.size_corrected:
            loss_K = (loss_K * signal.counted_K).nan_to_num(0.0) / state["share_K"]
        return self._mix({**state, "log_a_K": ascend(state["log_a_K"], loss_K, self.eta)})

    def _mix(self, state: State) -> tuple[Mix, State]:
        return Mix(state["share_K"], state["log_a_K"].exp()), state

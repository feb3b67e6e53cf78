"""AMA-S: AutoMixAlign by resampling (arXiv 2506.00569), on EXP3 (Auer et al. 2002)."""

from dataclasses import dataclass
from math import exp, log, sqrt
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from mixalign.checks import check_choice, check_number
from mixalign.errors import MixalignError
from mixalign.losses.excess import CLIPS, Clip
from mixalign.mixers.base import Composition, DescendsOn, ExcessOver, Mix, MixSignal, Rule, State, read
from mixalign.mixers.simplex import ascend, mix_uniform, uniform

__all__ = ["AMAS"]

Absent = Literal["importance", "hold", "ema"]
Schedule = Literal["constant", "decay"]


@dataclass(frozen=True)
class AMAS(Rule):
    """Samples task i with `alpha_i = (1 - c) q_i + c / K`, where EXP3 moves q: `q_i <- q_i exp(eta ehat_i)`.

    The model descends on the plain mean excess of the batch: the draw already carries alpha, and weighting the
    loss as well would apply it twice. The estimate is `ehat_i = 1/B sum_{b of task i} excess_b / alpha_i`,
    whose mean is the task's excess whatever was drawn.

    Attributes:
        eta: step size, per nat of excess.
        c: share of the draws that is spread uniformly over the tasks. With c = 0 a task can be lost for good.
        c_schedule: `constant`, or `decay`: max(c, sqrt(K ln K / t)) at update t, as EXP3's regret bound asks.
        absent: `importance`: the estimate above; `hold`: the mean over the task's samples, and the last known
            mean while the task is absent; `ema`: `hold`, averaged over updates. The last two have less variance
            and a small bias.
        ema_decay: weight of the past in `ema`.
        clip: `sample`: mean of max(loss - specialist loss, 0); `task`: max of the mean and 0; `none`.
        entropy: weight lam of the entropy of q in the game, in nats of excess (our addition): `log q_i <- (1 - eta lam)
            log q_i + eta ehat_i`. Past excess is forgotten over 1 / (eta lam) updates, so that a task that has caught
            up with its specialist gives its share back, and q tends to softmax(excess / lam). 0 is the paper's EXP3.
        over: whose losses excess is counted over: the `specialists`, or a `baseline`, one model of all tasks that is
            trained as long on uniform sampling (our addition): one training more in the place of one a task.
    """

    eta: float = 0.1
    c: float = 0.1
    c_schedule: Schedule = "constant"
    absent: Absent = "importance"
    ema_decay: float = 0.9
    clip: Clip = "sample"
    entropy: float = 0.0
    over: ExcessOver = "specialists"

    needs: ClassVar[frozenset[str]] = frozenset({"excess_K", "excess_iw_K"})
    composition: ClassVar[Composition] = "multinomial"
    descends_on: ClassVar[DescendsOn] = "excess"

    def __post_init__(self) -> None:
        check_number("mixer.eta", self.eta, 0)
        check_number("mixer.c", self.c, 0, 1)
        check_number("mixer.ema_decay", self.ema_decay, 0, 1)
        check_choice("mixer.c_schedule", self.c_schedule, get_args(Schedule))
        check_choice("mixer.absent", self.absent, get_args(Absent))
        check_choice("mixer.clip", self.clip, CLIPS)
        check_number("mixer.entropy", self.entropy, 0)
        check_choice("mixer.over", self.over, get_args(ExcessOver))
        if self.eta * self.entropy > 1:
            raise MixalignError(
                f"`mixer.entropy` is {self.entropy} and `mixer.eta` {self.eta}, whose product is the share of the past "
                "that an update forgets, and must not be above 1. Lower one of them."
            )

    @property
    def excess_over(self) -> ExcessOver:
        return self.over

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        zero_K = torch.zeros(len(rows_K), dtype=torch.float64)
        return self._mix({"log_q_K": uniform(len(rows_K)).log(), "estimate_K": zero_K, "seen_K": zero_K}, 0)

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        estimate_K, seen_K = self._estimate(signal, state)
        gain_K = estimate_K.where(seen_K > 0, torch.nan)  # of a task that was never seen nothing is known
        log_q_K = ascend(self._remembered(state["log_q_K"]), gain_K, self.eta)
        return self._mix({"log_q_K": log_q_K, "estimate_K": estimate_K, "seen_K": seen_K}, signal.step + 1)

    def caution(self, num_tasks: int, batch_size: int) -> str | None:
        """A warning when one sample of the rarest task could multiply its weight by more than e."""
        if self.absent != "importance" or self.eta == 0:
            return None
        if self.c == 0:
            return "mixer.c=0 leaves no exploration: a task that loses its share once is never drawn again. Take c=0.1."
        jump = self.eta * log(2) * num_tasks / (self.c * batch_size)
        if jump <= 1:
            return None
        factor = f"{exp(jump):.3g}" if jump < 50 else f"e^{jump:.3g}"
        return (
            f"mixer.eta={self.eta:g} is unsafe with c={self.c:g}, {num_tasks} tasks and batches of {batch_size}: "
            f"one sample of a rare task with an excess of log 2 can multiply its weight by {factor}. "
            f"Take eta at most {self.eta / jump:.3g}, a larger c, or absent=ema."
        )

    def _remembered(self, log_q_K: Tensor) -> Tensor:
        """The weights of the past in this update; all of them without an entropy term, to the bit."""
        return log_q_K if self.entropy == 0 else ((1 - self.eta * self.entropy) * log_q_K).log_softmax(0)

    def _estimate(self, signal: MixSignal, state: State) -> tuple[Tensor, Tensor]:
        if self.absent == "importance":
            return read(signal, "excess_iw_K", state["log_q_K"]), torch.ones_like(state["seen_K"])
        excess_K, old_K = read(signal, "excess_K", state["log_q_K"]), state["estimate_K"]
        present_K = ~excess_K.isnan()
        if self.absent == "ema":  # the first sight of a task replaces the zero that it began with
            past_K = self.ema_decay * state["seen_K"]
            excess_K = past_K * old_K + (1 - past_K) * excess_K
        seen_K = torch.where(present_K, 1.0, state["seen_K"])
        return torch.where(present_K, excess_K, old_K), seen_K

    def _mix(self, state: State, updates: int) -> tuple[Mix, State]:
        q_K = state["log_q_K"].exp()
        return Mix(mix_uniform(q_K, self._explore(len(q_K), updates))), state

    def _explore(self, num_tasks: int, updates: int) -> float:
        if self.c_schedule == "constant":
            return self.c
        return max(self.c, min(1.0, sqrt(num_tasks * log(num_tasks) / max(updates, 1))))

"""SEC: self-evolving curriculum, a Boltzmann bandit on a moving average of each task's signal (arXiv 2505.14970)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mixalign.checks import check_number
from mixalign.mixers.bandit import SIGNALS, Bandit
from mixalign.mixers.base import Mix, MixSignal, State, read
from mixalign.mixers.simplex import uniform

__all__ = ["SEC"]


@dataclass(frozen=True)
class SEC(Bandit):
    """Samples task i with the softmax of `Q_i / temperature`, where `Q_i <- lr r_i + (1 - lr) Q_i` (TD(0)), Q_0 = 0.

    The paper's reward r_i is the mean of |advantage| over the task's samples, which stands for what can be learned
    from them now. Nothing has an advantage without reinforcement learning: here r_i is the absolute value of the mean
    signal that `signal` names. `gain`, the share of its loss that a trial step takes away, is closest to what the
    paper means; `loss` is what costs nothing.

    A task without a measurement keeps its Q. The published code moves it towards 0 instead.

    Attributes, beside a Bandit's:
        lr: weight of a new reward in Q; .5 in the paper.
        temperature: in units of the signal. The paper has .2 to 1, for advantages of about 1; losses and excesses of
            preferences differ by tenths of a nat.
    """

    lr: float = 0.5
    temperature: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("mixer.lr", self.lr, 0, 1)
        check_number("mixer.temperature", self.temperature, 1e-6)

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        return Mix(uniform(len(rows_K))), {"q_K": torch.zeros(len(rows_K), dtype=torch.float64)}

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        reward_K = read(signal, SIGNALS[self.signal], state["q_K"]).abs()
        q_K = torch.lerp(state["q_K"], reward_K, self.lr).where(~reward_K.isnan(), state["q_K"])
        return Mix((q_K / self.temperature).softmax(0)), {"q_K": q_K}

"""PiKE: more of the tasks with a large gradient and little noise (arXiv 2502.06244, Algorithm 1)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from mixalign.checks import check_number
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Cadence, Composition, DescendsOn, Mix, MixSignal, Rule, State, read
from mixalign.mixers.lengths import in_steps, known
from mixalign.mixers.simplex import ascend, normalise, uniform

__all__ = ["PiKE"]


@dataclass(frozen=True)
class PiKE(Rule):
    """Samples by `w_k <- w_k exp(zeta1 |grad L_k|^2 - zeta2 sigma_k^2)`, every few steps.

    `|grad L_k|^2` is the square of the task's mean gradient, sigma_k^2 the variance of one row's gradient around it:
    where gradients of tasks neither conflict nor agree much, this is a step towards the batch that lowers the mean
    loss most. Batches hold every task, in numbers that are on average `w_k` of the rows, where the paper rounds.
    The square is measured without bias, and so may be negative where noise hides the gradient.

    With tau > 0 it is Balanced-PiKE, which aims at `1 / tau log sum_k exp(tau L_k)` (eq. 11), between the mean and the
    worst loss: the loss of task k is weighted by y_k, proportional to `exp(tau L_k)` (Lemma 3.6), so gradients are y_k
    times, squares and variances y_k^2 times as large, and the model descends on `sum_k w_k y_k loss_k`. y has mean 1
    here, which makes tau -> 0 PiKE itself; the paper's sums to tau. L_k is the last batch's mean loss. Both levers
    move then.

    Attributes:
        zeta1: step size, per squared gradient. The paper tunes both; their values are not in what we could read of it.
        zeta2: the same for the noise: the paper's zeta_2 / (2 b), for batches of b rows. In its bound zeta2 is
            `eta L / (2 b)` times zeta1: one in 2 b with a learning rate eta of 1 / L, L being the smoothness.
        tau: tilt towards tasks with a large loss, per nat; 1 to 5 in the paper, 3 being its best.
        every: steps between two measurements, the paper's T_0; below 1 it is a share of the run.
    """

    zeta1: float = 0.01
    zeta2: float = 0.0001
    tau: float = 0.0
    every: float = 0.02

    needs: ClassVar[frozenset[str]] = frozenset({"gradient_KK", "noise_K", "loss_K"})
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"
    cadence: ClassVar[Cadence] = "interval"

    def __post_init__(self) -> None:
        check_number("mixer.zeta1", self.zeta1, 0)
        check_number("mixer.zeta2", self.zeta2, 0)
        check_number("mixer.tau", self.tau, 0)
        check_number("mixer.every", self.every, 0)

    def for_run(self, tasks: list[str], steps: int) -> "PiKE":
        """The rule for a run of that many steps."""
        return replace(self, every=max(1, in_steps(self.every, steps)))

    def asks(self, step: int) -> bool:
        """After every `every` steps."""
        return step % max(1, known("mixer.every", self.every)) == 0

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        known("mixer.every", self.every)
        unknown_K = torch.full((len(rows_K),), torch.nan, dtype=torch.float64)
        return self._mix({"log_w_K": uniform(len(rows_K)).log(), "loss_K": unknown_K})

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        log_w_K = state["log_w_K"]
        square_K = read(signal, "gradient_KK", log_w_K).diagonal()
        noise_K, loss_K = read(signal, "noise_K", log_w_K), read(signal, "loss_K", log_w_K)
        if square_K.isnan().all():  # no measurement after this step
            return self._mix(state)
        loss_K = loss_K.where(~loss_K.isnan(), state["loss_K"])
        gain_K = self._tilt(loss_K) ** 2 * (self.zeta1 * square_K - self.zeta2 * noise_K)
        return self._mix({"log_w_K": ascend(log_w_K, gain_K, 1.0), "loss_K": loss_K})

    def _tilt(self, loss_K: Tensor) -> Tensor:
        """y, with mean 1; a task without a loss counts as the mean of the others."""
        loss_K = loss_K.where(~loss_K.isnan(), loss_K.nanmean().nan_to_num(0.0))
        return len(loss_K) * (self.tau * loss_K).softmax(0)

    def _mix(self, state: State) -> tuple[Mix, State]:
        w_K = state["log_w_K"].exp()
        return Mix(w_K, normalise(w_K * self._tilt(state["loss_K"])) if self.tau else None), state

"""Aioli: learns by short trials which task lowers which loss, and samples by it (arXiv 2411.05735, Algorithms 1, 2)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from mixalign.checks import check_flag, check_number
from mixalign.errors import MixalignError
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Cadence, Composition, DescendsOn, Mix, MixSignal, Rule, State, read
from mixalign.mixers.lengths import in_steps, known
from mixalign.mixers.simplex import normalise, uniform

__all__ = ["Aioli"]


@dataclass(frozen=True)
class Aioli(Rule):
    """Samples by `p_j <- p_j exp(eta sum_i A_ij)`; the law is that mixture p lowers loss i by `sum_j A_ij p_j`.

    A is learned anew every `every` steps, in a phase of `rounds` x K bursts of `steps` steps. In each burst one task
    has the share `one_hot` and the others divide the rest; before and after it validation losses are measured
    (`probe_loss_K`). A burst of composition x and loss drops d is one equation `A x = d`, in nats a burst; A solves
    all of a phase by least squares. Then p is updated and kept until the next phase.

    Where we differ from the paper and its code:
    - x is the composition that the batches really had, and not the one asked for, which small batches cannot have, nor
      those of a rule that is wrapped in a floor or a prior. For batches that have it, the solutions are the same.
    - The tasks of a round come in the order of their rows, and in every second round backwards, so that with even
      `rounds` a learning speed that changes linearly in time favours no task. The paper shuffles them.
    - The first phase comes after `warmup` steps, uniformly mixed, and none after `until`.
    - `ema` is the code's: there the weights of A's average start from the uniform mixture at each phase and not from
      the last p, so that any `ema` above 0 keeps p within e^eta of uniform when A is normalised. It is off here.

    The optimizer's momentum mixes bursts that are much shorter than its memory (10 steps for AdamW's 0.9), and the law
    is reported to fit instruction tuning poorly (R^2 = 0.42 in the paper).

    Attributes:
        rounds: bursts of each task in a phase.
        steps: of a burst; below 1, as all the next ones, a share of the run.
        every: from the start of one phase to the next.
        warmup: before the first phase; at least 1, as nothing is measured before the first step.
        until: the last step at which a phase may begin, at most so late that it ends before the run does.
        one_hot: share of a burst's own task.
        eta: step size of the update of p.
        ema: weight of the past in a moving average of A; 0: none.
        normalise: shifts A's entries to 0 and above, if one is negative, and scales them to sum to 1.
    """

    rounds: int = 2
    steps: float = 0.02
    every: float = 0.4
    warmup: float = 0.07
    until: float = 0.8
    one_hot: float = 0.75
    eta: float = 1.0
    ema: float = 0.0
    normalise: bool = True

    needs: ClassVar[frozenset[str]] = frozenset({"probe_loss_K"})
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"
    cadence: ClassVar[Cadence] = "interval"
    num_tasks: ClassVar[int] = 0  # `for_run` sets it for the instance that it gives

    def __post_init__(self) -> None:
        for key in ("steps", "every", "warmup", "until", "eta"):
            check_number(f"mixer.{key}", getattr(self, key), 0)
        check_number("mixer.rounds", self.rounds, 1, whole=True)
        check_number("mixer.one_hot", self.one_hot, 0, 1)
        check_number("mixer.ema", self.ema, 0, 1)
        check_flag("mixer.normalise", self.normalise)

    def for_run(self, tasks: list[str], steps: int) -> "Aioli":
        """The rule for a run of that many steps.

        Raises:
            MixalignError: when a phase does not fit into the run, or into the time to the next phase.
        """
        burst, every, warmup = (max(1, in_steps(share, steps)) for share in (self.steps, self.every, self.warmup))
        rule = replace(self, steps=burst, every=every, warmup=warmup, until=in_steps(self.until, steps))
        phase = rule._length(len(tasks))
        what = f"a learning phase of {len(tasks)} tasks takes `mixer.rounds` {self.rounds} x {len(tasks)} bursts of"
        what = f"{what} `mixer.steps` {rule.steps} steps, {phase} in all"
        if rule.warmup + phase >= steps:
            raise MixalignError(
                f"With `steps={steps}` and `mixer.warmup` {rule.warmup} no learning phase fits into the run: {what}. "
                "Take more steps, or lower one of the others."
            )
        if phase >= rule.every:
            raise MixalignError(
                f"`mixer.every` is {rule.every} steps, but {what}. Raise `mixer.every`, or lower one of the others."
            )
        rule = replace(rule, until=min(rule.until, steps - phase - 1))
        object.__setattr__(rule, "num_tasks", len(tasks))
        return rule

    def asks(self, step: int) -> bool:
        """At the borders of bursts; after every step for a rule that was not told the number of tasks."""
        return self.num_tasks == 0 or self._is_border(self._phase(step, self.num_tasks)[1], self.num_tasks)

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        for key in ("steps", "every", "warmup", "until"):
            known(f"mixer.{key}", getattr(self, key))
        num_tasks = len(rows_K)
        if num_tasks > 1 and self.one_hot <= 1 / num_tasks:
            raise MixalignError(
                f"`mixer.one_hot` is {self.one_hot:g}, but must be more than 1 / {num_tasks} with {num_tasks} tasks: "
                "else a burst's own task is not ahead of the others."
            )
        zero_K = torch.zeros(num_tasks, dtype=torch.float64)
        zero_KK = zero_K.expand(num_tasks, -1)
        state = {"log_p_K": uniform(num_tasks).log(), "order_K": rows_K.argsort(stable=True)}
        state |= {"phase": zero_K.sum() - 1, "learning": zero_K.sum()}
        state |= {"mean_A_KK": zero_KK, "learned": zero_K.sum()}  # of the phases so far
        state |= {"loss_K": zero_K, "share_K": zero_K, "measured": zero_K.sum()}  # since the last border
        state |= {"xx_KK": zero_KK, "xd_KK": zero_KK}  # of this phase's bursts
        return Mix(self._sample(0, state)), state

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        loss_K = read(signal, "probe_loss_K", state["log_p_K"])
        done, num_tasks = signal.step + 1, len(loss_K)
        phase, place = self._phase(done, num_tasks)
        if signal.count_K.sum() > 0:
            state = state | {"share_K": state["share_K"] + normalise(signal.count_K)}
        if 0 <= place < self._length(num_tasks) and phase != state["phase"]:
            state = _begin(phase, state)
        if state["learning"] and self._is_border(place, num_tasks):
            state = self._measure(loss_K, state)
        if state["learning"] and place >= self._length(num_tasks):
            state = self._learn(state)
        return Mix(self._sample(done, state)), state

    def _length(self, num_tasks: int) -> int:
        """Steps of a learning phase."""
        return int(self.rounds * num_tasks * self.steps)

    def _phase(self, step: int, num_tasks: int) -> tuple[int, int]:
        """Number of the last learning phase that began, from 0 on, and steps since; negative before the first one."""
        every = max(int(self.every), self._length(num_tasks) + 1)
        phase = max(0, min(step, int(self.until)) - int(self.warmup)) // every
        return phase, step - int(self.warmup) - phase * every

    def _is_border(self, place: int, num_tasks: int) -> bool:
        return 0 <= place <= self._length(num_tasks) and place % max(1, int(self.steps)) == 0

    def _measure(self, loss_K: Tensor, state: State) -> State:
        """The state with the equation of the burst that ended, or of two when the border between them was missed."""
        if not loss_K.isfinite().all():
            return state
        if state["measured"]:
            x_K = state["share_K"] / self.steps
            state = state | {"xx_KK": state["xx_KK"] + x_K.outer(x_K)}
            state = state | {"xd_KK": state["xd_KK"] + x_K.outer(state["loss_K"] - loss_K)}
        one = torch.ones_like(state["measured"])
        return state | {"loss_K": loss_K, "share_K": torch.zeros_like(loss_K), "measured": one}

    def _learn(self, state: State) -> State:
        """The state after the update that ends a phase."""
        state = state | {"learning": torch.zeros_like(state["learning"])}
        A_KK = _solve(state["xx_KK"], state["xd_KK"])
        if A_KK is None:
            return state
        if self.normalise:
            A_KK = A_KK - A_KK.min().clamp_max(0)
            A_KK = A_KK / A_KK.sum() if A_KK.sum() > 0 else A_KK
        if self.ema and state["learned"]:
            A_KK = torch.lerp(A_KK, state["mean_A_KK"], self.ema)
        log_p_K = (0 if self.ema else state["log_p_K"]) + self.eta * A_KK.sum(0)
        return state | {"mean_A_KK": A_KK, "learned": state["learned"] + 1, "log_p_K": log_p_K.log_softmax(0)}

    def _sample(self, step: int, state: State) -> Tensor:
        """The mixture of a step, counted from 0."""
        num_tasks = len(state["log_p_K"])
        _, place = self._phase(step, num_tasks)
        if num_tasks == 1 or not 0 <= place < self._length(num_tasks):
            return state["log_p_K"].exp()
        round_, turn = divmod(place // int(self.steps), num_tasks)
        task = state["order_K"][turn if round_ % 2 == 0 else num_tasks - 1 - turn]
        sample_K = torch.full_like(state["log_p_K"], (1 - self.one_hot) / (num_tasks - 1))
        sample_K[task] = self.one_hot
        return sample_K


def _begin(phase: int, state: State) -> State:
    """The state at the start of a learning phase."""
    nothing_KK, one = torch.zeros_like(state["xx_KK"]), torch.ones_like(state["learning"])
    state = state | {"phase": phase * one, "learning": one, "measured": 0 * one}
    return state | {"xx_KK": nothing_KK, "xd_KK": nothing_KK}


def _solve(xx_KK: Tensor, xd_KK: Tensor) -> Tensor | None:
    """A of the least squares of `A x = d`; None when the bursts that were measured do not tell all drawn tasks apart.

    Args:
        xx_KK: sum of `x x'` over the bursts.
        xd_KK: sum of `x d'`. A task that was never drawn gets a column of 0.
    """
    drawn_K = xx_KK.diagonal() > 0
    xx_KK = xx_KK[drawn_K][:, drawn_K]
    if not drawn_K.any() or torch.linalg.matrix_rank(xx_KK, rtol=1e-6, hermitian=True) < len(xx_KK):
        return None
    A_KK = torch.zeros_like(xd_KK)
    A_KK[:, drawn_K] = torch.linalg.solve(xx_KK, xd_KK[drawn_K]).T
    return A_KK

"""ADO: adaptive data optimisation, more of the tasks whose loss is falling (arXiv 2410.11820, Algorithm 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from mixalign.checks import check_number
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Composition, DescendsOn, Mix, MixSignal, Rule, State, read
from mixalign.mixers.lengths import in_steps, known
from mixalign.mixers.power_law import PowerLaw, fit
from mixalign.mixers.simplex import normalise
from mixalign.mixers.weights import check_weights, in_order, resolve

__all__ = ["ADO"]

POINTS = 64  # of a task's loss curve that are kept
SHORTEST = 20  # steps between two fits, when they are a share of the run
LEAST_EXPONENT = 0.05


@dataclass(frozen=True)
class ADO(Rule):
    """Samples by how fast each task's loss falls, as a power law of its past predicts.

    Every `every` steps, `L_i = exp(e_i) + exp(a_i) / D^alpha_i` is fitted to the loss of task i, D the samples seen of
    all tasks. At step t, with prior mu and h_i an average of the shares that task i had of the last batches:

        rho_i  proportional to  mu_i h_i^s alpha_i exp(a_i) / D^alpha_i,  raised to at least `floor`
        pi = gamma2 rho + (1 - gamma2) pi_bar,    pi_bar <- (1 - 1 / (t + 1)) pi_bar + rho / (t + 1)

    This is the policy of the published code (yidingjiang/ado, ado.py): D is the same for all tasks, so that what a task
    learns from others counts; alpha is at least .05; pi_bar averages rho, and begins at mu.

    Differences from it, mostly because losses of preferences are far from those of pretraining:
    the irreducible loss may come down to 0 (the code keeps it above e^.5 nats), and the bounds of a and e are relative
    to the curve; alpha is at least .05 already in the fit, so that a flat curve is not taken for a slow fall of all its
    loss; curves are means over stretches of steps, at most 64 of them, in place of every tenth value of a
    Savitzky-Golay filter; steps without a sample of a task are left out, not filled with its last loss; a fit that
    fails keeps the old one of its own task, and a task without any has the mean speed of the others. With more
    than 1 / floor tasks the floor is 1 / K.

    Attributes:
        every: steps between two fits; below 1 a share of the run, and then at least 20; the paper has 1000 of 60,000.
        warmup: steps that have the prior, and that the fits leave out; below 1 a share of the run.
        prior: mu: `proportional` to rows, `uniform`, a list in the order of the tasks, or one by task name.
        s: exponent of h.
        gamma1: weight of a batch in h.
        gamma2: weight of rho in pi.
        floor: least share of a task in rho.
    """

    every: float = 0.05
    warmup: float = 0.05
    prior: str | Sequence[float] | Mapping[str, float] = "proportional"
    s: float = 0.5
    gamma1: float = 0.1
    gamma2: float = 0.1
    floor: float = 0.01

    needs: ClassVar[frozenset[str]] = frozenset({"loss_K"})
    composition: ClassVar[Composition] = "multinomial"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"

    def __post_init__(self) -> None:
        check_number("mixer.every", self.every, 0)
        check_number("mixer.warmup", self.warmup, 0)
        check_weights("mixer.prior", self.prior)
        check_number("mixer.s", self.s, 0)
        check_number("mixer.gamma1", self.gamma1, 0, 1)
        check_number("mixer.gamma2", self.gamma2, 0, 1)
        check_number("mixer.floor", self.floor, 0, 1)

    def for_run(self, tasks: list[str], steps: int) -> "ADO":
        """The rule for a run of that many steps, its prior in the order of the tasks."""
        every = max(SHORTEST, in_steps(self.every, steps)) if self.every < 1 else self.every
        return replace(
            self, every=every, warmup=in_steps(self.warmup, steps), prior=in_order("mixer.prior", self.prior, tasks)
        )

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        known("mixer.every", self.every)
        known("mixer.warmup", self.warmup)
        prior_K = resolve("mixer.prior", self.prior, rows_K)
        zero, zero_K = torch.zeros((), dtype=torch.float64), torch.zeros_like(prior_K)
        law = {"e_K": zero_K, "a_K": zero_K, "alpha_K": zero_K, "fitted_K": zero_K}
        policy = {"prior_K": prior_K, "mean_K": prior_K, "history_K": prior_K, "samples": zero, "since_fit": zero}
        return Mix(prior_K), policy | law | _no_curve(len(rows_K))

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        loss_K = read(signal, "loss_K", state["prior_K"])
        count_K = signal.count_K.to(torch.float64)
        state = state | {"samples": state["samples"] + count_K.sum(), "history_K": self._history(count_K, state)}
        if signal.step < self.warmup:
            return Mix(state["prior_K"]), state
        state = _more_curve(loss_K, signal.counted_K.to(torch.float64), state) | {"since_fit": state["since_fit"] + 1}
        if state["since_fit"] >= self.every:
            state = _refit(state) | {"since_fit": torch.zeros_like(state["since_fit"])}
        if not state["fitted_K"].any():
            return Mix(state["prior_K"]), state
        rho_K = self._rho(state)
        mix = Mix(normalise(self.gamma2 * rho_K + (1 - self.gamma2) * state["mean_K"]))
        return mix, state | {"mean_K": torch.lerp(state["mean_K"], rho_K, 1 / (signal.step + 1))}

    def _history(self, count_K: Tensor, state: State) -> Tensor:
        """h, with the shares of one batch more."""
        if count_K.sum() == 0:
            return state["history_K"]
        return (1 - self.gamma1) * state["history_K"] + self.gamma1 * normalise(count_K)

    def _rho(self, state: State) -> Tensor:
        law = PowerLaw(state["e_K"], state["a_K"], state["alpha_K"])
        speed_K = law.alpha_K.clamp_min(LEAST_EXPONENT) * law.reducible(state["samples"])
        fitted_K = state["fitted_K"] > 0
        speed_K = speed_K.where(fitted_K, speed_K[fitted_K].mean())
        weight_K = speed_K * state["prior_K"] * state["history_K"] ** self.s
        rho_K = normalise(weight_K) if weight_K.sum() > 0 else state["prior_K"]
        return normalise(rho_K.clamp_min(min(self.floor, 1 / len(rho_K))))


def _no_curve(num_tasks: int) -> State:
    """Sums of no step. A point is a stretch of `stretch` steps; `point` is the one that is being filled."""
    zero_P, one = torch.zeros(POINTS, dtype=torch.float64), torch.ones((), dtype=torch.float64)
    zero_KP = torch.zeros(num_tasks, POINTS, dtype=torch.float64)
    sums = {"loss_KP": zero_KP, "count_KP": zero_KP, "samples_P": zero_P, "steps_P": zero_P}
    return sums | {"point": 0 * one, "stretch": one}


def _more_curve(loss_K: Tensor, count_K: Tensor, state: State) -> State:
    """The sums with one step more; when all points are full, two become one, and stretches twice as long."""
    sums = {name: state[name].clone() for name in ("loss_KP", "count_KP", "samples_P", "steps_P")}
    point, stretch = int(state["point"]), state["stretch"]
    if sums["steps_P"][point] >= stretch:
        point += 1
    if point == POINTS:
        point, stretch = POINTS // 2, 2 * stretch
        sums = {name: _halved(value) for name, value in sums.items()}
    count_K = count_K.where(~loss_K.isnan(), 0.0)
    sums["loss_KP"][:, point] += (loss_K * count_K).nan_to_num(0.0)
    sums["count_KP"][:, point] += count_K
    sums["samples_P"][point] += state["samples"]
    sums["steps_P"][point] += 1
    return state | sums | {"point": torch.full_like(stretch, point), "stretch": stretch}


def _halved(sum_P: Tensor) -> Tensor:
    """Neighbours added, with as many zeros behind, along the last axis."""
    pairs = sum_P.unflatten(-1, (-1, 2)).sum(-1)
    return torch.cat([pairs, torch.zeros_like(pairs)], -1)


def _refit(state: State) -> State:
    """The laws of the curves so far; where a fit fails, the old one."""
    last = int(state["point"]) + 1
    samples_P = state["samples_P"][:last] / state["steps_P"][:last]
    law = fit(samples_P, state["loss_KP"][:, :last] / state["count_KP"][:, :last])
    valid_K = law.valid()
    new = {name: getattr(law, name).where(valid_K, state[name]) for name in ("e_K", "a_K", "alpha_K")}
    return state | new | {"fitted_K": state["fitted_K"].maximum(valid_K.double())}

"""What every rule may be given on top: a prior, a floor, a warm-up and the like, as a mixer around a mixer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from mixalign.checks import check_flag, check_number
from mixalign.errors import MixalignError
from mixalign.losses.excess import Clip, clip_mean
from mixalign.mixers.base import PROBED, Cadence, Composition, DescendsOn, ExcessOver, Mix, MixSignal, Rule, State, read
from mixalign.mixers.lengths import in_steps, known
from mixalign.mixers.simplex import normalise, uniform
from mixalign.mixers.weights import check_weights, in_order, resolve

__all__ = ["Wrapped", "wrap"]

INNER = "mixer."  # prefix of the rule's own state


@dataclass(frozen=True)
class Wrapped(Rule):
    """Changes the lever that a rule moves, in this order: temperature, prior, average, floor, warm-up, cap of epochs.

    Every default leaves the rule as it is, to the bit. Importance-weighted measurements stay unbiased, as they are
    divided by the probabilities that the rows were drawn with, which are those of the wrapped mixture.

    Attributes:
        mixer: the rule; not one that works in rounds.
        prior: multiplies the rule's weights, as p0 in DynamixSFT (arXiv 2508.12116): `softmax(log alpha + log p0)`.
            `uniform`, `proportional` to rows, a list in the order of the tasks, or one by task name.
        temperature: the rule's weights to the power 1 / temperature; above 1 is flatter.
        average: takes the mean of all the rule's mixtures so far, as DoReMi's result (arXiv 2305.10429).
        floor: share that is spread over the tasks as the prior has it, or uniformly without one.
        warmup: steps that have the prior, or the uniform mixture, while the rule is updated; below 1 it is a share
            of the run.
        every: steps between two updates of the rule. In between, means are weighted by counts, importance-weighted
            sums are averaged over batches, and of validations and probes the last one counts. Not for rules that
            have steps of their own (`asks`).
        max_epochs: a task of whose rows so many passes were drawn gets no weight any more; once that is true of all,
            the training ends (`exhausted`). The batch in which a task reaches it may overshoot it.
    """

    mixer: Rule
    prior: str | Sequence[float] | Mapping[str, float] | None = None
    temperature: float = 1.0
    average: bool = False
    floor: float = 0.0
    warmup: float = 0
    every: int = 1
    max_epochs: float = inf

    def __post_init__(self) -> None:
        if self.mixer.cadence == "round":
            raise MixalignError("`mixer.wrap` has no meaning for a mixer that decides volumes between rounds.")
        if self.prior is not None:
            check_weights("mixer.wrap.prior", self.prior)
        check_number("mixer.wrap.temperature", self.temperature, 1e-3)
        check_flag("mixer.wrap.average", self.average)
        check_number("mixer.wrap.floor", self.floor, 0, 1)
        check_number("mixer.wrap.warmup", self.warmup, 0)
        check_number("mixer.wrap.every", self.every, 1)
        if self.every > 1 and self.mixer.cadence == "interval":
            raise MixalignError(
                f"`mixer.wrap.every` is {self.every}, but {type(self.mixer).__name__} has steps of its own at which it "
                "measures and decides, and an interval would pass some of them over. Leave `mixer.wrap.every` at 1 "
                "and set `mixer.every`."
            )
        check_number("mixer.wrap.max_epochs", self.max_epochs, 0, finite=False)

    @property
    def needs(self) -> frozenset[str]:
        return self.mixer.needs

    @property
    def composition(self) -> Composition:
        return self.mixer.composition

    @property
    def descends_on(self) -> DescendsOn:
        return self.mixer.descends_on

    @property
    def clip(self) -> Clip:
        return self.mixer.clip

    @property
    def cadence(self) -> Cadence:
        return self.mixer.cadence

    @property
    def static(self) -> bool:
        return self.mixer.static

    @property
    def final(self) -> bool:
        return self.mixer.final

    @property
    def excess_over(self) -> ExcessOver:
        return self.mixer.excess_over

    @property
    def baseline(self) -> Any:
        return self.mixer.baseline

    @property
    def averages(self) -> bool:
        return self.every > 1 or self.mixer.averages

    def exhausted(self, state: State, banned_K: Tensor) -> bool:
        weight_K = state["lever_K"] + self.floor * self._prior(state["rows_K"])
        left_K = (weight_K > 0) & ~banned_K & self._open(state)
        return self.max_epochs != inf and not bool(left_K.any())

    def caution(self, num_tasks: int, batch_size: int) -> str | None:
        """The rule's own warning; it sees the samples of `every` batches at once."""
        return self.mixer.caution(num_tasks, batch_size * self.every)

    def asks(self, step: int) -> bool:
        """Whether probes measure after that many steps: when the rule says, and at most once in an interval."""
        return step % self.every == 0 and self.mixer.asks(step)

    def for_run(self, tasks: list[str], steps: int) -> "Wrapped":
        """The wrapper and its rule for a run of that many steps."""
        prior = in_order("mixer.wrap.prior", self.prior, tasks)
        mixer = self.mixer.for_run(tasks, steps)
        return replace(self, mixer=mixer, prior=prior, warmup=in_steps(self.warmup, steps))

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        known("mixer.wrap.warmup", self.warmup)
        rows_K = rows_K.double()
        zero = torch.zeros((), dtype=torch.float64)
        state = {"rows_K": rows_K, "seen_K": torch.zeros_like(rows_K), "updates": zero}
        state |= self._nothing(rows_K)
        state = self._decide(*self.mixer.init(rows_K), state)
        return self._mix(0, state), state

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        state = self._gather(signal, state)
        if float(state["batches"]) >= self.every:
            inner = {name.removeprefix(INNER): value for name, value in state.items() if name.startswith(INNER)}
            mix, inner = self.mixer.update(self._gathered(signal, state), inner)
            state = {name: value for name, value in state.items() if name != "weight_K"}
            state = self._decide(mix, inner, state | self._nothing(state["rows_K"]))
        return self._mix(signal.step + 1, state), state

    def _nothing(self, rows_K: Tensor) -> State:
        """Sums of no batch."""
        zero_K, unknown_K = torch.zeros_like(rows_K), torch.full_like(rows_K, torch.nan)
        sums = {f"sum.{name}": zero_K for name in self.needs if not _counts_last(name)}
        for name in self.needs:
            if _counts_last(name):
                sums[f"sum.{name}"] = unknown_K.expand(len(rows_K), -1) if name.endswith("_KK") else unknown_K
        return sums | {"count_K": zero_K, "batches": zero_K.sum()}

    def _gather(self, signal: MixSignal, state: State) -> State:
        """The sums with one batch more."""
        more: State = {}
        for name in self.needs:
            value_K, old_K = read(signal, name, state["rows_K"]), state[f"sum.{name}"]
            if _counts_last(name):
                more[f"sum.{name}"] = value_K.where(~value_K.isnan(), old_K)
            elif name.endswith("_iw_K"):
                more[f"sum.{name}"] = old_K + value_K
            else:
                # nan of a task with samples stays: zeros would count as measured
                more[f"sum.{name}"] = old_K + (value_K * signal.counted_K).where(signal.counted_K > 0, 0.0)
        more["batches"] = state["batches"] + 1
        more |= {name: state[name] + signal.count_K for name in ("count_K", "seen_K")}
        if signal.weight_K is not None or "weight_K" in state:  # of none of a task's samples so far, or of all
            more["weight_K"] = state.get("weight_K", state["count_K"]) + signal.counted_K
        return state | more

    def _gathered(self, signal: MixSignal, state: State) -> MixSignal:
        """What the batches since the rule's last update showed, as one signal."""
        if self.every == 1:
            return signal
        means: dict[str, Any] = {"weight_K": state.get("weight_K")}
        for name in self.needs:
            sum_K = state[f"sum.{name}"]
            batches_or_count = state["batches"] if name.endswith("_iw_K") else state.get("weight_K", state["count_K"])
            means[name] = sum_K if _counts_last(name) else sum_K / batches_or_count  # 0 / 0: nan, not measured
            if name in ("excess_K", "excess_iw_K"):
                means[name] = clip_mean(means[name], self.clip)  # the mean of all, not of each batch
        return replace(signal, count_K=state["count_K"], **means)

    def _decide(self, mix: Mix, inner: State, state: State) -> State:
        """The state after the rule's own decision, which `lever_K` keeps until the next one."""
        lever_K = mix.alpha_K
        if self.temperature != 1:
            lever_K = normalise(lever_K ** (1 / self.temperature))
        if self.prior is not None:
            prior_K = self._prior(state["rows_K"])
            weight_K = prior_K * lever_K
            lever_K = normalise(weight_K) if weight_K.sum() > 0 else prior_K
        updates = state["updates"] + 1
        if self.average and updates > 1:
            lever_K = torch.lerp(state["lever_K"], lever_K, 1 / float(updates))
        state = state | {INNER + name: value for name, value in inner.items()}
        state |= {"lever_K": lever_K, "updates": updates}
        return state if mix.loss_K is None else state | {"sample_K": mix.sample_K}

    def _mix(self, step: int, state: State) -> Mix:
        """The mixture of a step, counted from 0."""
        base_K = self._prior(state["rows_K"])
        lever_K = base_K if step < self.warmup else (1 - self.floor) * state["lever_K"] + self.floor * base_K
        lever_K = self._capped(lever_K, state)
        return Mix(self._capped(state["sample_K"], state), lever_K) if "sample_K" in state else Mix(lever_K)

    def _prior(self, rows_K: Tensor) -> Tensor:
        return uniform(len(rows_K)) if self.prior is None else resolve("mixer.wrap.prior", self.prior, rows_K)

    def _capped(self, weight_K: Tensor, state: State) -> Tensor:
        if self.max_epochs == inf:
            return weight_K
        left_K = weight_K * self._open(state)
        return normalise(left_K) if left_K.sum() > 0 else weight_K

    def _open(self, state: State) -> Tensor:
        """Whether each task may still be drawn, bool (K,)."""
        return state["seen_K"] < self.max_epochs * state["rows_K"]


def _counts_last(name: str) -> bool:
    """Whether the last of several measurements counts, and not their mean: those that are not made at every step."""
    return name.startswith("eval_") or name in PROBED


def wrap(mixer: Rule, settings: Mapping[str, Any]) -> Rule:
    """The rule with `mixer.wrap` around it; the rule itself where every setting is at its default."""
    defaults = {field.name: field.default for field in fields(Wrapped)}
    if all(value == defaults.get(name) for name, value in settings.items()):
        return mixer
    return Wrapped(mixer, **settings)

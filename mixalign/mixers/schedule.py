"""A curriculum: fixed mixtures, one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mixalign.checks import check_flag, check_number
from mixalign.errors import MixalignError
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Composition, DescendsOn, Mix, MixSignal, Rule, State
from mixalign.mixers.lengths import in_steps, known
from mixalign.mixers.weights import check_weights, in_order, resolve

__all__ = ["Schedule"]

UNTIL = "It counts steps, or below 1 it is a share of the run; only the last phase has none."


@dataclass(frozen=True)
class Schedule(Rule):
    """Samples by the mixture of the phase that a step falls in; measures nothing.

    Attributes:
        phases: one mapping each, in order. `until`: the first step after the phase; below 1 it is a share of the run;
            the last phase has none and lasts to the end. `weights`: `uniform`, `proportional` to rows, a list in the
            order of the tasks, or one by task name; they need not sum to 1.
        interpolate: moves linearly instead: a phase's mixture is reached at its `until`, the last one's at the end
            of the run, from that of the phase before; the first phase is constant.
    """

    phases: Sequence[Mapping[str, Any]] = ({"until": 0.5, "weights": "uniform"}, {"weights": "proportional"})
    interpolate: bool = False

    needs: ClassVar[frozenset[str]] = frozenset()
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"
    static: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_flag("mixer.interpolate", self.interpolate)
        _check_phases(self.phases)

    def for_run(self, tasks: list[str], steps: int) -> "Schedule":
        """The schedule for a run of that many steps, its weights in the order of the tasks."""
        ends = [None if (end := phase.get("until")) is None else in_steps(end, steps) for phase in self.phases]
        ends[-1] = ends[-1] or max([steps, *(end for end in ends if end is not None)])
        weights = [
            in_order(f"mixer.phases.{n}.weights", phase["weights"], tasks) for n, phase in enumerate(self.phases)
        ]
        return replace(self, phases=[{"until": e, "weights": w} for e, w in zip(ends, weights, strict=True)])

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        if self.interpolate and self.phases[-1].get("until") is None:
            raise MixalignError("`mixer.interpolate` needs the run's last step: call `for_run(tasks, steps)` first.")
        return Mix(self._at(0, rows_K)), {"rows_K": rows_K}

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        return Mix(self._at(signal.step + 1, state["rows_K"])), state

    def _at(self, step: int, rows_K: Tensor) -> Tensor:
        """The mixture of a step, counted from 0."""
        ends = [known(f"mixer.phases.{n}.until", phase.get("until") or 0) for n, phase in enumerate(self.phases)]
        now = next((n for n, end in enumerate(ends[:-1]) if step < end), len(ends) - 1)
        weight_K = self._weights(now, rows_K)
        if not self.interpolate or now == 0:
            return weight_K
        share = min(1.0, (step - ends[now - 1]) / max(1, ends[now] - ends[now - 1]))
        return torch.lerp(self._weights(now - 1, rows_K), weight_K, share)

    def _weights(self, number: int, rows_K: Tensor) -> Tensor:
        return resolve(f"mixer.phases.{number}.weights", self.phases[number]["weights"], rows_K)


def _check_phases(phases: Any) -> None:
    """Refuses what is not a list of phases in order."""
    if not isinstance(phases, Sequence) or isinstance(phases, str) or not phases:
        raise MixalignError(f"`mixer.phases` is {phases!r}, but must be a list of phases with `until` and `weights`.")
    for n, phase in enumerate(phases):
        if not isinstance(phase, Mapping) or not {"weights"} <= {*phase} <= {"until", "weights"}:
            raise MixalignError(f"`mixer.phases.{n}` is {phase!r}, but must have `until` and `weights`, and no more.")
        check_weights(f"mixer.phases.{n}.weights", phase["weights"])
        is_last = n == len(phases) - 1
        check_number(f"mixer.phases.{n}.until", phase.get("until"), 0, null=is_last, why=UNTIL)
    ends = [phase["until"] for phase in phases if phase.get("until") is not None]
    same_unit = all(e < 1 for e in ends) or all(e >= 1 for e in ends)
    if same_unit and ends != sorted(ends):
        raise MixalignError(f"`mixer.phases` is not in order: its phases last until {ends}.")

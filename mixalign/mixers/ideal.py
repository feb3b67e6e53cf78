"""IDEAL: volumes of the tasks by their influence on a target loss, in rounds (arXiv 2505.12762)."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from mixalign.checks import check_choice, check_flag, check_number
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Cadence, Composition, DescendsOn, Mix, MixSignal, Rule, State, read
from mixalign.mixers.simplex import normalise

__all__ = ["Budget", "Ideal"]

Budget = Literal["steps", "epochs"]


@dataclass(frozen=True)
class Ideal(Rule):
    """Changes the volume of task i by `n_i <- int(n_i (1 + beta_i))`, `beta = m benefit / max |benefit|` of all tasks.

    The model is trained from the same start in every round, on exactly the volumes of that round; the benefit is
    `-dQ/dbeta` of the target loss Q (section 2 of the paper), measured on the trained model. A volume above the
    number of rows repeats some of them, chosen at random; one below leaves some out.

    Attributes:
        m: largest relative change of a volume in one round; the paper advises 0.15.
        rounds: changes of the volumes; there is one training more.
        decay: m is multiplied by this after every round.
        budget: `steps`: every round trains for the same number of steps, so that only shares matter, and the benefit
            is the centred score; `epochs`: for as many as its volumes take, with the paper's own score.
        size_weighting: whether a benefit is that of a relative change of the volume (the derivative), or of a single
            row (as the paper's code has it, where the smallest task dominates).
        min_confidence: a task whose sign is less certain than this keeps its volume.
        floor: least volume, as a share of the task's rows.
        cap: most repeats of a row.
        equal_total: rescales all volumes to the first round's total.
        stop: ends the rounds when the target loss has not fallen, or when the benefits have turned round.
    """

    m: float = 0.15
    rounds: int = 2
    decay: float = 1.0
    budget: Budget = "steps"
    size_weighting: bool = True
    min_confidence: float = 0.9
    floor: float = 0.5
    cap: float = 4.0
    equal_total: bool = False
    stop: bool = True

    needs: ClassVar[frozenset[str]] = frozenset({"benefit_K", "confidence_K"})
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"
    cadence: ClassVar[Cadence] = "round"

    def __post_init__(self) -> None:
        check_number("mixer.m", self.m, 0, 1)
        check_number("mixer.rounds", self.rounds, 1, whole=True)
        check_number("mixer.decay", self.decay, 0, 1)
        check_choice("mixer.budget", self.budget, get_args(Budget))
        check_number("mixer.min_confidence", self.min_confidence, 0.5, 1)
        check_number("mixer.floor", self.floor, 0, 1)
        check_number("mixer.cap", self.cap, 1)
        for key in ("size_weighting", "equal_total", "stop"):
            check_flag(f"mixer.{key}", getattr(self, key))

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        rows_K = rows_K.double()
        return Mix(normalise(rows_K)), {
            "rows_K": rows_K,
            "volume_K": rows_K,
            "m": torch.tensor(self.m, dtype=torch.float64),
        }

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        benefit_K = read(signal, "benefit_K", state["rows_K"])
        sure_K = read(signal, "confidence_K", state["rows_K"]) >= self.min_confidence
        # scaled by all that was measured, so that an uncertain large benefit does not blow up the small ones beside it
        beta_K = relative_change(benefit_K, float(state["m"])).where(sure_K, 0.0)
        volume_K = self._bounded(state["volume_K"] * (1 + beta_K), state["rows_K"])
        return Mix(normalise(volume_K)), {**state, "volume_K": volume_K, "m": state["m"] * self.decay}

    def _bounded(self, volume_K: Tensor, rows_K: Tensor) -> Tensor:
        """Whole volumes between floor and cap, at least one row each."""
        if self.equal_total:
            volume_K = volume_K * (rows_K.sum() / volume_K.sum())
        least_K = torch.maximum((self.floor * rows_K).ceil(), torch.ones_like(rows_K))
        return (volume_K + 1e-9).floor().clamp(least_K, torch.maximum((self.cap * rows_K).floor(), least_K))


def relative_change(benefit_K: Tensor, m: float) -> Tensor:
    """beta: the benefits scaled so that the largest in magnitude is m (step of the paper's section 2); 0 for nan."""
    benefit_K = benefit_K.nan_to_num(0.0, 0.0, 0.0)
    largest = float(benefit_K.abs().max())
    return torch.zeros_like(benefit_K) if largest == 0 else m * benefit_K / largest

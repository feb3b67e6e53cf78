"""What bandits over tasks have in common: the signal that a user names as their reward."""

from dataclasses import dataclass
from typing import ClassVar

from mixalign.checks import check_choice, check_number
from mixalign.losses.excess import Clip
from mixalign.mixers.base import PROBED, Cadence, Composition, DescendsOn, Rule

__all__ = ["SIGNALS", "Bandit"]

SIGNALS = {  # a bandit's reward -> the field of MixSignal whose absolute value it is
    "loss": "loss_K",
    "excess": "excess_K",
    "eval_loss": "eval_loss_K",
    "eval_excess": "eval_excess_K",
    "probe_loss": "probe_loss_K",
    "gain": "gain_K",
    "noise": "noise_K",
}


@dataclass(frozen=True)
class Bandit(Rule):
    """A rule that reads one signal; a subclass gives `init` and `update`.

    Attributes:
        signal: `loss`, `excess` (over the specialist, clipped by sample), `eval_loss` or `eval_excess` of validations
            (`val_every`), or `probe_loss`, `gain` or `noise` of probes.
        every: steps between two probes, for a signal that is probed.
    """

    signal: str = "loss"
    every: int = 10

    composition: ClassVar[Composition] = "multinomial"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "sample"
    cadence: ClassVar[Cadence] = "interval"

    def __post_init__(self) -> None:
        check_choice("mixer.signal", self.signal, list(SIGNALS))
        check_number("mixer.every", self.every, 1)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({SIGNALS[self.signal]})

    def asks(self, step: int) -> bool:
        """Whether probes measure after that many steps: every so many, for a signal that is probed."""
        return SIGNALS[self.signal] in PROBED and step % self.every == 0

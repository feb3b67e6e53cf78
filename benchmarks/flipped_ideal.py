"""IDEAL with the sign of its step turned round: what shows that the sign matters."""

from dataclasses import dataclass, replace

from mixalign.mixers.base import Mix, MixSignal, State
from mixalign.mixers.ideal import Ideal


@dataclass(frozen=True)
class FlippedIdeal(Ideal):
    """Takes from the tasks that help."""

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        assert signal.benefit_K is not None
        return super().update(replace(signal, benefit_K=-signal.benefit_K), state)

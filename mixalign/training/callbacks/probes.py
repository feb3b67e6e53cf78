"""Which probes a mixer needs."""

from mixalign.mixers.base import Mixer
from mixalign.training.callbacks.gradient_probe import GradientProbe
from mixalign.training.callbacks.probe import Probe
from mixalign.training.callbacks.trial_step import TrialStep
from mixalign.training.callbacks.validation_probe import ValidationProbe

__all__ = ["PROBES", "probes_for"]

PROBES: tuple[type[Probe], ...] = (GradientProbe, TrialStep, ValidationProbe)


def probes_for(
    mixer: Mixer, seed: int = 0, rows: int = 8, validation_rows: int = 64, weights: str | None = None
) -> list[Probe]:
    """The probes that measure what a mixer reads, in the order of `PROBES`.

    Args:
        seed: of the rows that are drawn.
        rows: of each task for a gradient or a trial step.
        validation_rows: of each task for a validation between steps.
        weights: regular expression that the names of probed weights match; None: all that are trained.
    """
    settings = (seed, rows, validation_rows, weights)
    return [probe(mixer, *settings) for probe in PROBES if probe.measures & mixer.needs]

"""How far a whole run is: its stages by number, what of them is left, and a line when one is over."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

__all__ = ["READING", "TRAINING", "Course", "Stage", "clock", "span"]

log = logging.getLogger(__name__)
TRAINING, READING = "training", "reading"
"""Kinds of work whose unit is a token: one that is read passes forward once; a training counts each three times."""
MEASURED = 3.0  # seconds of a kind of work, from which its speed is told: beside less, what surrounds it is much


@dataclass(frozen=True)
class Stage:
    """A part of a run that somebody waits for.

    Attributes:
        name: as `specialist json`.
        work: kind -> units. Work of one kind takes as long a unit everywhere in a run.
        trainings: models that are trained in it.
    """

    name: str
    work: Mapping[str, float] = field(default_factory=dict)
    trainings: int = 0


class Course:
    """The stages of a run, one after the other, and how long all of them take.

    Without stages, as in a verb that has none, it says nothing. Speeds are those of earlier runs until this one has
    measured its own.

    Args:
        now: gives seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.stages: list[Stage] = []
        self._now, self._says = now, False
        self._known: dict[str, float] = {}  # seconds a unit, of earlier runs
        self._seconds: dict[str, float] = {}  # measured in this one
        self._units: dict[str, float] = {}
        self._spare: list[float] = []  # seconds of each stage that were none of its work
        self._began = 0.0
        self._number = 0  # of the stage at work; 0: none yet
        self._since: float | None = None  # when that began; None: it is over
        self._worked, self._outcome = 0.0, ""
        self._done: dict[str, float] = {}  # units of the stage at work

    def begin(self, stages: Iterable[Stage], known: Mapping[str, float], says: bool = True) -> None:
        """Says what comes.

        Args:
            known: kind of work -> seconds a unit, as earlier runs have measured.
            says: whether a line is logged when a stage is over.
        """
        self.stages, self._known, self._says = list(stages), dict(known), says
        self._began, self._number, self._since = self._now(), 0, None

    def enter(self, name: str) -> None:
        """A stage begins, and the one before is over; names that are not to come are left alone.

        Stages that are passed over were made meanwhile, as by another run, and count no more.
        """
        for skipped, stage in enumerate(self.stages[self._number :]):
            if stage.name == name:
                del self.stages[self._number : self._number + skipped]
                self._leave()
                self._number, self._since = self._number + 1, self._now()
                self._worked, self._done, self._outcome = 0.0, {}, ""
                return

    def finish(self) -> None:
        """The last stage is over, and what comes now is of none."""
        del self.stages[self._number :]
        self._leave()
        self.stages, self._number, self._since = [], 0, None

    def _leave(self) -> None:
        if self._since is not None:
            took = self._now() - self._since
            self._spare.append(max(0.0, took - self._worked))
            if self._says:
                said = f"{self._outcome}, " if self._outcome else ""
                log.info("%s: %stook %s", self.title(self.stages[self._number - 1].name), said, clock(took))

    def outcome(self, text: str) -> None:
        """What the line of the stage at work says of it, beside its time."""
        self._outcome = text

    def work_of(self, kind: str) -> float:
        """Units of the stage at work."""
        return self.stages[self._number - 1].work.get(kind, 0.0) if self._number else 0.0

    def worked(self, kind: str, units: float, seconds: float = 0.0) -> None:
        """Work of the stage at work that is done; without seconds, or units, it says nothing of the speed."""
        self._done[kind] = self._done.get(kind, 0.0) + units
        self._worked += seconds
        if seconds and units:
            self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds
            self._units[kind] = self._units.get(kind, 0.0) + units

    def title(self, name: str) -> str:
        """A name with the number of the stage at work before it: `[3/8] specialist json`."""
        return f"[{self._number}/{len(self.stages)}] {name}" if self._number else name

    def total(self) -> str:
        """`total about 9 min`, from the begin to the end; empty while nobody knows how fast a part of it goes."""
        left = self._left()
        seconds, unknown = cost_of(left, self._speed)
        if not self._number or any(kind.startswith((TRAINING, READING)) for kind in unknown):
            return ""
        spare = median(self._spare) * (len(self.stages) - self._number) if self._spare else 0.0
        beside = "".join(f" + {kind}" for kind in sorted(unknown))
        return f"total about {span(self._now() - self._began + seconds + spare)}{beside}"

    def _left(self) -> list[Stage]:
        if not self._number:
            return self.stages
        at = self.stages[self._number - 1]
        rest = {kind: max(0.0, units - self._done.get(kind, 0.0)) for kind, units in at.work.items()}
        return [Stage(at.name, rest), *self.stages[self._number :]]

    def _speed(self, kind: str) -> float | None:
        return self.measured(kind) or self._known.get(kind)

    def measured(self, kind: str) -> float | None:
        """Seconds a unit, as this run has measured; None where that was too little."""
        seconds, units = self._seconds.get(kind, 0.0), self._units.get(kind, 0.0)
        return seconds / units if seconds >= MEASURED and units else None


def cost_of(stages: Sequence[Stage], speed: Callable[[str], float | None]) -> tuple[float, set[str]]:
    """Seconds that stages take, and the kinds of work that are left out because nobody knows their speed.

    Where only one of training and reading is known, the other goes as fast by the unit.
    """
    other = {TRAINING: READING, READING: TRAINING}
    seconds, unknown = 0.0, set()
    for stage in stages:
        for kind, units in stage.work.items():
            if not units:
                continue
            a_unit = speed(kind) or (speed(other[kind]) if kind in other else None)
            if a_unit is None:
                unknown.add(kind)
            else:
                seconds += units * a_unit
    return seconds, unknown


def clock(seconds: float) -> str:
    """`0:40`, `12:05` or `1:02:05`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def span(seconds: float) -> str:
    """A time as one says it: `40 s`, `9 min`, `2 h 10 min`, `3 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes / 60 / 24:.0f} days"

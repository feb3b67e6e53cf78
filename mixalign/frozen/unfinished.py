"""A model of the cache that is being trained: its checkpoints, from which the next process goes on, and its cost."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixalign.fingerprint import fingerprint
from mixalign.frozen.costs import metered
from mixalign.jobs.job import Job
from mixalign.together.agree import agree, is_first
from mixalign.training.checkpoints import newest_checkpoint
from mixalign.training.meter import Meter

if TYPE_CHECKING:  # a plan need not wait for Lightning
    from lightning.pytorch.callbacks import Callback

__all__ = ["Unfinished", "forget", "unfinished"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unfinished:
    """What a training of the cache leaves until it is finished.

    Attributes:
        folder: gets checkpoints/ and metrics.csv; its name is the fingerprint of the recipe, so that nothing else goes
            on from them.
        meter: of all that the model costs.
        save_every: optimizer steps between two checkpoints; None goes by the clock.
    """

    folder: Path
    meter: Meter
    save_every: int | None

    def give_curve(self, place: Path) -> None:
        """Copies the metrics.csv of the training to the folder of the model that it made."""
        if (self.folder / "metrics.csv").is_file():
            shutil.copy(self.folder / "metrics.csv", place)

    def callbacks(self) -> list["Callback"]:
        """Those that save, and leave when the process is told to stop."""
        from mixalign.training.callbacks.cost import Spent
        from mixalign.training.callbacks.leave import Leave
        from mixalign.training.callbacks.save_newest import SaveByTime, SaveNewest

        place = self.folder / "checkpoints"
        saves = SaveByTime(place) if self.save_every is None else SaveNewest(place, self.save_every)
        return [Spent(self.meter), saves, Leave(place)]

    def resume(self, strategy: Any, title: str) -> Path | None:
        """The checkpoint to go on from, on all processes; none when it is of a strategy that this one cannot read."""
        from mixalign.training.sharding import FullySharded

        found = agree(newest_checkpoint(self.folder) if is_first() else None)
        if found is None or (found.is_dir() and not isinstance(strategy, FullySharded)):
            return None
        log.info("%s goes on from %s", title, found)
        return found


@contextmanager
def unfinished(job: Job, recipe: Mapping[str, Any]) -> Iterator[Unfinished]:
    """For the training of a model; its cost is recorded at the end, and what it left is kept when it fails."""
    folder = job.cache / "unfinished" / fingerprint(recipe)
    with metered(job, recipe) as meter:
        yield Unfinished(folder, meter, job.settings.save_every)


def forget(job: Job, recipe: Mapping[str, Any]) -> None:
    """Removes what the training of a model left, once the model is in its place."""
    if is_first():
        shutil.rmtree(job.cache / "unfinished" / fingerprint(recipe), ignore_errors=True)

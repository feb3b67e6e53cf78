"""A few steps of a training, timed and thrown away, so that a plan knows how fast a model is here."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from mixalign.course import TRAINING
from mixalign.frozen.batch_sizes import Need, fit_batch_sizes, micro_batch_size, need_of
from mixalign.frozen.recipes import training_work
from mixalign.frozen.trainings import Training, train_frozen
from mixalign.frozen.unfinished import Unfinished
from mixalign.jobs.job import Job
from mixalign.models.fingerprint import weights_fingerprint
from mixalign.models.load import add_lora
from mixalign.models.shapes import Shapes
from mixalign.objectives.sft import SFT
from mixalign.training.meter import Meter

__all__ = ["Timed", "timed"]

STEPS = 4  # the first is for what is made once


@dataclass(frozen=True)
class Timed:
    """What was found out with the model.

    Attributes:
        job: fitted to it.
        speeds: kind of work -> seconds a unit; see `mixalign.course`.
        text: what was timed.
        need: of memory.
    """

    job: Job
    speeds: Mapping[str, float]
    text: str
    need: Need


def timed(job: Job) -> Timed:
    """Loads the model and trains it for a few micro-batches.

    Raises:
        MixalignError: when the model cannot be loaded, or cannot read the rows.
    """
    base = job.settings.model.build()
    job = fit_batch_sizes(replace(job.fitted_to(base), start=weights_fingerprint(base)), base)
    need = need_of(job, Shapes.of(base))
    batch = job.settings.batch_size
    rows = micro_batch_size(job, batch) or batch
    training = Training(
        title="timing",
        objective=SFT(),  # a token costs as much as with any, and needs no scores of a reference policy
        tasks=job.tasks,
        tables=[table.first_completion() for table in job.data["train"]],
        steps=STEPS,
        batch_size=rows,
        lr=0.0,
        seed=job.settings.seed,
    )
    watch = _Watch()
    quiet = replace(job, settings=replace(job.settings, progress=False))
    with tempfile.TemporaryDirectory() as folder:
        left = _Thrown(Path(folder), Meter(job.device), None, watch)
        train_frozen(quiet, add_lora(base, job.settings.lora, job.settings.seed), training, left)
    took = watch.seconds[-1] - watch.seconds[0]
    units = training_work(training.tables, STEPS - 1, rows)[TRAINING]
    text = f"{STEPS - 1} steps of {rows} rows that took {took:.1f} s now"
    return Timed(job, {TRAINING: took / units}, text, need)


class _Watch(L.Callback):
    """When each step was over."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.monotonic())


@dataclass(frozen=True)
class _Thrown(Unfinished):
    """A training that leaves nothing."""

    watch: Callback

    def callbacks(self) -> list[Callback]:
        return [self.watch]

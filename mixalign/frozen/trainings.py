"""Trainings of the models that are frozen afterwards: a fixed mixture, no validation, a short curve."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch import nn

from mixalign.data.batches.module import MixtureData
from mixalign.data.batches.sampler import MixtureSampler
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.frozen.batch_sizes import micro_batch_size
from mixalign.frozen.recipes import mean_length, training_work
from mixalign.frozen.unfinished import Unfinished
from mixalign.jobs.job import Job
from mixalign.mixers.base import Mixer
from mixalign.mixers.fixed import Temperature
from mixalign.objectives.base import Objective
from mixalign.stopping import stage
from mixalign.terminal import counted
from mixalign.together.agree import wait, world
from mixalign.together.trainer import trainer_options
from mixalign.training.callbacks.best_checkpoint import BestCheckpoint
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.callbacks.progress import MixtureProgress
from mixalign.training.callbacks.specialist_check import SpecialistCheck
from mixalign.training.callbacks.task_log import TaskLog
from mixalign.training.engine import prepare_model
from mixalign.training.fit import Fit, fit, make_trainer
from mixalign.training.metrics_file import MetricsFile
from mixalign.training.module import AlignModule
from mixalign.training.sharding import load_weights

__all__ = ["Training", "train_frozen"]

log = logging.getLogger(__name__)
AGAIN = "The same command goes on from there."
UNIFORM = Temperature(float("inf"))
POINTS = 100  # of the curve of a training, in its metrics.csv
LOOKS = 10  # at validation rows, in a training that keeps its best weights
JUDGE = "eval/mean_loss"  # at these looks


@dataclass(frozen=True)
class Training:
    """One training of a model that is frozen afterwards.

    Attributes:
        title: of its progress bar.
        objective: with the settings of the tasks.
        tasks: names of the K tasks.
        tables: their training rows, one table a task.
        steps, batch_size, lr: of the optimizer.
        seed: of the order of rows.
        mixture: of the tasks; it stays.
        best_on: tables, one a task, that are looked at ten times; the weights with the lowest mean loss on them are
            kept. Without any the last ones are.
        patience: so many of these looks in a row without a lower loss end the training; None: it has all its steps.
    """

    title: str
    objective: Objective
    tasks: list[str]
    tables: list[TaskDataset]
    steps: int
    batch_size: int
    lr: float
    seed: int
    mixture: Mixer = UNIFORM
    best_on: Sequence[TaskDataset] = ()
    patience: int | None = None


def train_frozen(job: Job, model: nn.Module, training: Training, left: Unfinished) -> nn.Module:
    """Trains the model in place, on all processes of the job.

    Args:
        left: where an earlier process left its checkpoints, if it did not finish, and where this one leaves its own.

    Raises:
        Stopped: when the process was told to stop, and the training has saved itself.
        MixalignError: when the training ended before its last step: what is kept by a recipe has all of them.
    """
    settings, rows_K = job.settings, [len(d) for d in training.tables]
    optimizer = replace(settings.optimizer, lr=training.lr)
    module = AlignModule(model, training.objective, training.tasks, optimizer, seed=training.seed)
    sampler = MixtureSampler(rows_K, training.batch_size, "stratified", training.seed)
    mixing = Mixing(training.mixture, training.tasks, rows_K)
    callbacks: list[Callback] = [mixing, SpecialistCheck(judges=False)]
    if settings.progress:
        callbacks.append(MixtureProgress(mixing, training.title, job.course))
    left.meter.work = training_work(training.tables, training.steps, training.batch_size)
    prepare_model(model, settings.engine, training.steps * training.batch_size * mean_length(training.tables))
    rows, validation = job.eval_batch_size, list(training.best_on)
    data = MixtureData(training.tables, validation, sampler, training.steps, rows, job.layout)
    keepers = [_keeper(left.folder)] if validation else []
    curve = TaskLog(mixing, every=max(1, training.steps // POINTS))
    ends = [] if training.patience is None else [EarlyStopping(JUDGE, patience=training.patience, check_finite=False)]
    callbacks += [curve, *keepers, *ends, *left.callbacks()]
    trainer = make_trainer(_fit_settings(job, training), job.cache, callbacks, [MetricsFile(str(left.folder))])
    with stage(f"the training of the {training.title}", again=AGAIN):
        fit(trainer, module, data, left.resume(trainer.strategy, training.title))
    if trainer.global_step < training.steps and any(end.wait_count >= end.patience for end in ends):
        _say_early_end(training, left, trainer.global_step)
    elif trainer.global_step < training.steps:
        raise MixalignError(
            f"The training `{training.title}` ended at step {trainer.global_step} of {training.steps}, so it is "
            "not stored: other runs would take it for one of all its steps. Start the same command again."
        )
    for keeper in keepers:
        load_weights(module, keeper.existing())
        wait()
    return module.model


def _say_early_end(training: Training, left: Unfinished, step: int) -> None:
    left.meter.work = training_work(training.tables, step, training.batch_size)
    left.meter.steps = step
    log.info(
        "the training of the %s ended at step %d of %d: its validation loss was not lower at %s (specialists.patience)",
        training.title, step, training.steps, counted(training.patience or 0, "look"),
    )  # fmt: skip


def _keeper(folder: Path) -> BestCheckpoint:
    """Keeps the checkpoint with the lowest validation loss, until the training is finished and forgotten."""
    instead = f"Restore it, or remove {folder}: the same command trains this model from its start."
    return BestCheckpoint(folder / "best", JUDGE, instead=instead)


def _fit_settings(job: Job, training: Training) -> Fit:
    options = trainer_options(job.settings, job.precision)
    options |= {"enable_progress_bar": job.settings.progress}
    options |= {} if training.best_on else {"limit_val_batches": 0}
    rows = micro_batch_size(job, training.batch_size)
    divides = rows is not None and training.batch_size % (rows * world()) == 0
    val_every = max(1, training.steps // LOOKS)
    return Fit(training.steps, training.batch_size, rows if divides else None, val_every, options)

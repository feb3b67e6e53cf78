"""Trainings of the models that are frozen afterwards: a fixed mixture, no validation, no logs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import nn

from mixalign.data.batches.module import MixtureData
from mixalign.data.batches.sampler import MixtureSampler
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.frozen.cache import Frozen
from mixalign.jobs.job import Job, rows_fingerprint
from mixalign.mixers.base import Mixer
from mixalign.mixers.fixed import Temperature
from mixalign.objectives.base import Objective
from mixalign.together.agree import world
from mixalign.together.trainer import trainer_options
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.callbacks.progress import MixtureProgress
from mixalign.training.callbacks.specialist_check import SpecialistCheck
from mixalign.training.engine import prepare_model, rows_within
from mixalign.training.fit import Fit, fit, make_trainer
from mixalign.training.module import AlignModule

__all__ = ["Training", "mean_length", "micro_batch_size", "optimizer_recipe", "recipe_from_reference", "train_frozen"]

UNIFORM = Temperature(float("inf"))


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


def train_frozen(job: Job, model: nn.Module, training: Training) -> nn.Module:
    """Trains the model in place, on all processes of the job.

    Raises:
        MixalignError: when the training ended before its last step: what is kept by a recipe has all of them.
    """
    settings, rows_K = job.settings, [len(d) for d in training.tables]
    module = AlignModule(model, training.objective, training.tasks, replace(settings.optimizer, lr=training.lr))
    sampler = MixtureSampler(rows_K, training.batch_size, "stratified", training.seed)
    mixing = Mixing(training.mixture, training.tasks, rows_K)
    callbacks: list[Callback] = [mixing, SpecialistCheck(judges=False)]
    if settings.progress:
        callbacks.append(MixtureProgress(mixing, training.title))
    trainer = make_trainer(_fit_settings(job, training), job.cache, callbacks)
    prepare_model(model, settings.engine, training.steps * training.batch_size * mean_length(training.tables))
    fit(trainer, module, MixtureData(training.tables, [], sampler, training.steps, layout=job.layout))
    if trainer.global_step < training.steps:
        raise MixalignError(
            f"The training `{training.title}` ended at step {trainer.global_step} of {training.steps}, so it is not "
            "stored: other runs would take it for one of all its steps. Start the same command again."
        )
    return module.model


def recipe_from_reference(job: Job, reference: Frozen, tables: Sequence[TaskDataset]) -> dict[str, Any]:
    """What decides the weights of every model that is trained from the reference policy and then frozen."""
    return {
        "start": reference.identity,
        "rows": rows_fingerprint(tables),
        "optimizer": optimizer_recipe(job),
        "lora": job.settings.plain["lora"] or {},
        "precision": job.precision,
        "seed": job.settings.specialists.seed,
    }


def optimizer_recipe(job: Job) -> dict[str, Any]:
    """The optimizer's settings but for its learning rate, which each training has for itself."""
    node: Mapping[str, Any] = job.settings.plain["optimizer"]
    return {key: value for key, value in node.items() if key not in ("_target_", "lr")}


def mean_length(datasets: Sequence[TaskDataset]) -> float:
    """Tokens of a row, on average over tasks."""
    return sum(float(d.length_N.mean()) for d in datasets) / len(datasets)


def micro_batch_size(job: Job, batch_size: int) -> int | None:
    """Rows of one forward pass: as configured, or as many as `engine.max_tokens` allows; None takes all at once."""
    if job.settings.engine.max_tokens:
        return rows_within(job.settings.engine.max_tokens, job.data["train"], batch_size, world())
    return job.settings.micro_batch_size


def _fit_settings(job: Job, training: Training) -> Fit:
    options = trainer_options(job.settings, job.precision)
    options |= {"enable_progress_bar": job.settings.progress, "limit_val_batches": 0}
    rows = micro_batch_size(job, training.batch_size)
    divides = rows is not None and training.batch_size % rows == 0
    return Fit(training.steps, training.batch_size, rows if divides else None, trainer=options)

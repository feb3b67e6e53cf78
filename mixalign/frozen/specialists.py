"""Specialists: one model a task, trained on it alone, whose losses say how good is good enough."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mixalign.data.dataset import TaskDataset
from mixalign.fingerprint import fingerprint
from mixalign.frozen.cache import CachedModel, Frozen, attach_losses, ensure, on_loan, score
from mixalign.frozen.trainings import Training, recipe_from_reference, train_frozen
from mixalign.jobs.job import Job, num_steps
from mixalign.models.load import add_lora

__all__ = ["attach_specialists", "find_specialists", "specialist_logp", "specialist_steps"]

log = logging.getLogger(__name__)


def find_specialists(job: Job, reference: Frozen) -> dict[str, CachedModel]:
    """Every task's specialist, trained or not: in `specialists.dir`, else in the cache."""
    settings, models = job.settings.specialists, {}
    for number, task in enumerate(job.tasks):
        recipe = recipe_from_reference(job, reference, [job.data["train"][number]]) | {
            "stage": "specialist",
            "task": task,
            "objective": job.settings.plain["objective"] | job.overrides[number],
            "fit": {"steps": specialist_steps(job, number), "batch_size": settings.batch_size, "lr": settings.lr},
        }
        cached = job.cache / "specialists" / f"{task}-{fingerprint(recipe)}"
        models[task] = CachedModel(Path(settings.dir) / task if settings.dir else cached, recipe)
    return models


def attach_specialists(job: Job, reference: Frozen, train: bool) -> bool:
    """Gives every row the loss of its task's specialist, as the column `specialist_loss`.

    Args:
        train: whether to train the specialists that are missing; else nothing is attached unless all are there.

    Returns:
        Whether the losses are attached.
    """
    models = find_specialists(job, reference)
    missing = [task for task, model in models.items() if not model.is_made]
    if missing and not train:
        return False
    for number, (task, model) in enumerate(models.items()):
        if task in missing:
            log.info("specialist %d/%d: %s", number + 1, len(models), task)
        ensure(job, model, partial(_train, job, reference, number))
        tables = [entry for entry in job.all_datasets if entry[0] == number]
        attach_losses(job, model.frozen(reference), "specialist", tables)
    return True


def specialist_logp(job: Job, reference: Frozen, datasets: Sequence[TaskDataset]) -> Tensor:
    """Log-probability of the first completion of every row of some tables under each specialist, (K, N), float64."""
    logp = []
    for task, model in find_specialists(job, reference).items():
        specialist = model.frozen(reference)
        with on_loan(specialist, job, datasets) as loan:
            tables = [score(job, specialist, loan, d, f"specialist {task} on {d.task}").align(d) for d in datasets]
        logp.append(torch.cat([torch.tensor(table[:, 0]) for table in tables]))
    return torch.stack(logp)


def specialist_steps(job: Job, task: int) -> int:
    """Optimizer steps of the specialist of one task."""
    s = job.settings.specialists
    return num_steps("specialists.", s.steps, s.epochs, len(job.data["train"][task]), s.batch_size)


def _train(job: Job, reference: Frozen, number: int) -> nn.Module:
    settings = job.settings.specialists
    training = Training(
        title=f"specialist {job.tasks[number]}",
        objective=job.settings.objective.for_tasks([job.overrides[number]]),
        tasks=[job.tasks[number]],
        tables=[job.data["train"][number]],
        steps=specialist_steps(job, number),
        batch_size=settings.batch_size,
        lr=settings.lr,
        seed=settings.seed,
    )
    return train_frozen(job, add_lora(reference.build(), job.settings.lora, settings.seed), training)

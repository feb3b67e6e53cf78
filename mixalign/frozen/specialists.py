"""Specialists: one model a task, trained on it alone, whose losses say how good is good enough."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from mixalign.errors import MixalignError
from mixalign.fingerprint import fingerprint
from mixalign.frozen.cache import CachedModel, Frozen, attach_losses, ensure
from mixalign.frozen.folds import attach_cross_fitted, outside, stage_name
from mixalign.frozen.pinned import as_trained, check_comparable
from mixalign.frozen.recipes import given, recipe_from_reference
from mixalign.frozen.unfinished import Unfinished
from mixalign.frozen.worse import say_loss
from mixalign.jobs.job import Job, num_steps, rows_fingerprint
from mixalign.models.load import add_lora

__all__ = ["attach_specialists", "find_folds", "find_specialists", "specialist_recipes", "specialist_steps"]

log = logging.getLogger(__name__)


def specialist_recipes(job: Job, reference: Frozen) -> dict[str, dict[str, Any]]:
    """All that decides the losses of every task's specialist, or of its cross-fitted ones together."""
    settings, job = job.settings.specialists, as_trained(job)
    more, recipes = given(folds=settings.folds if settings.folds > 1 else None, patience=settings.patience), {}
    for number, task in enumerate(job.tasks):
        recipes[task] = recipe_from_reference(job, reference, [job.data["train"][number]]) | {
            "stage": "specialist",
            "task": task,
            "objective": job.settings.plain["objective"] | job.overrides[number],
            "fit": {"steps": specialist_steps(job, number), "batch_size": settings.batch_size, "lr": settings.lr},
            **more,
        }
        if settings.export == "best":
            recipes[task]["best_on"] = rows_fingerprint([job.data["validation"][number]])
    check_comparable(job, recipes)
    return recipes


def find_folds(job: Job, reference: Frozen) -> dict[str, list[CachedModel]]:
    """Every task's specialists, trained or not, one a fold: in `specialists.dir`, else in the cache."""
    settings, folds = job.settings.specialists, job.settings.specialists.folds
    models: dict[str, list[CachedModel]] = {}
    for number, (task, recipe) in enumerate(specialist_recipes(job, reference).items()):
        for fold in range(folds):
            name, own = task, recipe
            if folds > 1:
                rows = outside(job.data["train"][number], folds, fold)
                fit = recipe["fit"] | {"steps": specialist_steps(job, number, len(rows))}
                more = {"fold": fold, "rows": rows_fingerprint([rows]), "fit": fit}
                name, own = f"{task}.{fold + 1}of{folds}", recipe | more
            cached = job.cache / "specialists" / f"{name}-{fingerprint(own)}"
            place = Path(settings.dir) / name if settings.dir else cached
            models.setdefault(task, []).append(CachedModel(place, own))
    return models


def find_specialists(job: Job, reference: Frozen) -> dict[str, CachedModel]:
    """Every task's specialist, trained or not, for who wants one model a task.

    Raises:
        MixalignError: when there are several of each.
    """
    if job.settings.specialists.folds > 1:
        raise MixalignError(
            f"`specialists.folds` is {job.settings.specialists.folds}, and so no specialist has seen all rows of its "
            "task: they score rows, and are neither merged nor mixed. Set it to 1."
        )
    return {task: models[0] for task, models in find_folds(job, reference).items()}


def attach_specialists(job: Job, reference: Frozen, train: bool) -> bool:
    """Gives every row the loss of its task's specialist, as the column `specialist_loss`.

    Args:
        train: whether to train the specialists that are missing; else nothing is attached unless all are there.

    Returns:
        Whether the losses are attached.
    """
    found = find_folds(job, reference)
    missing = [model for models in found.values() for model in models if not model.is_made]
    if missing and not train:
        return False
    for number, (task, models) in enumerate(found.items()):
        for fold, model in enumerate(models):
            job.course.enter(stage_name(task, fold, len(models)))
            if model in missing:
                part = f", fold {fold + 1} of {len(models)}" * (len(models) > 1)
                log.info("specialist %d/%d: %s%s", number + 1, len(found), task, part)
            ensure(job, model, partial(_train, job, reference, number, fold))
        if len(models) > 1:
            attach_cross_fitted(job, [model.frozen(reference) for model in models], number)
            continue
        tables = [entry for entry in job.all_datasets if entry[0] == number]
        attach_losses(job, models[0].frozen(reference), "specialist", tables)
        if models[0] in missing:
            say_loss(tables)
    return True


def specialist_steps(job: Job, task: int, rows: int | None = None) -> int:
    """Optimizer steps of the specialist of one task, on so many of its rows; None: on all of them."""
    s = job.settings.specialists
    steps = ((s.trained_with or {}).get("steps") or {}).get(job.tasks[task], s.steps)
    return num_steps("specialists.", steps, s.epochs, rows or len(job.data["train"][task]), s.batch_size)


def _train(job: Job, reference: Frozen, number: int, fold: int, left: Unfinished) -> nn.Module:
    from mixalign.frozen.trainings import Training, train_frozen  # loads Lightning, which a plan need not wait for

    settings, rows = job.settings.specialists, job.data["train"][number]
    rows, job = outside(rows, settings.folds, fold) if settings.folds > 1 else rows, as_trained(job)
    training = Training(
        title=f"specialist {job.tasks[number]}",
        objective=job.settings.objective.for_tasks([job.overrides[number]]),
        tasks=[job.tasks[number]],
        tables=[rows],
        steps=specialist_steps(job, number, len(rows)),
        batch_size=settings.batch_size,
        lr=settings.lr,
        seed=settings.seed,
        best_on=[job.data["validation"][number]] if settings.export == "best" else [],
        patience=settings.patience,
    )
    return train_frozen(job, add_lora(reference.build(), job.settings.lora, settings.seed), training, left)

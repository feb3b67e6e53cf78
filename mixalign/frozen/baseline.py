"""The baseline over which a rule may count excess (DoReMi): one model of all tasks, on a fixed mixture."""

import logging
from copy import copy
from dataclasses import replace
from functools import partial

from torch import nn

from mixalign.fingerprint import fingerprint
from mixalign.frozen.cache import CachedModel, Frozen, attach_losses, ensure
from mixalign.frozen.recipes import recipe_from_reference
from mixalign.frozen.unfinished import Unfinished
from mixalign.jobs.job import Job
from mixalign.mixers.base import Rule
from mixalign.mixers.schedule import Schedule
from mixalign.models.load import add_lora

__all__ = ["attach_baseline", "find_baseline"]

log = logging.getLogger(__name__)


def find_baseline(job: Job, reference: Frozen, mixer: Rule) -> CachedModel:
    """The baseline of a rule, trained or not.

    Args:
        mixer: its rule says the mixture, as `baseline`.
    """
    settings, train = job.settings, job.data["train"]
    recipe = recipe_from_reference(job, reference, train) | {
        "stage": "baseline",
        "mixture": _mixture(mixer).init(job.rows_K)[0].sample_K.tolist(),
        "objective": settings.plain["objective"],
        "overrides": job.overrides,
        "fit": {"steps": job.steps, "batch_size": settings.batch_size, "lr": settings.optimizer.lr},
    }
    return CachedModel(job.cache / "baseline" / fingerprint(recipe), recipe)


def attach_baseline(job: Job, reference: Frozen, mixer: Rule) -> Job:
    """Has the excess of the training rows counted over the rule's baseline.

    It is trained like a generalist, for as many steps of as many rows, and kept in the cache.

    Returns:
        The job with the baseline's losses in the column `specialist_loss` of its training rows. The job that was given
        stays as it is; both have the same validation and test rows, on which runs are compared.
    """
    model = find_baseline(job, reference, mixer)
    job.course.enter("baseline")
    ensure(job, model, partial(_train, job, reference, mixer))
    tables = [copy(dataset) for dataset in job.data["train"]]
    for table in tables:
        table.columns = dict(table.columns)
    job = replace(job, data=job.data | {"train": tables})
    attach_losses(job, model.frozen(reference), "baseline", [e for e in job.all_datasets if e[1] == "train"])
    return job


def _train(job: Job, reference: Frozen, mixer: Rule, left: Unfinished) -> nn.Module:
    from mixalign.frozen.trainings import Training, train_frozen  # loads Lightning, which a plan need not wait for

    settings, seed = job.settings, job.settings.specialists.seed
    log.info("baseline: %d steps of %d rows of all tasks", job.steps, settings.batch_size)
    training = Training(
        title="baseline",
        objective=job.objective,
        tasks=job.tasks,
        tables=job.data["train"],
        steps=job.steps,
        batch_size=settings.batch_size,
        lr=settings.optimizer.lr,
        seed=seed,
        mixture=_mixture(mixer),
    )
    return train_frozen(job, add_lora(reference.build(), settings.lora, seed), training, left)


def _mixture(mixer: Rule) -> Rule:
    return Schedule([{"weights": mixer.baseline}])

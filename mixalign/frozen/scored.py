"""The scores of the frozen models on every row of a job: those of the reference policy, and those of specialists."""

from collections.abc import Callable
from pathlib import Path

from mixalign.frozen.cache import Frozen
from mixalign.frozen.policy import attach_reference, reference_policy
from mixalign.frozen.specialists import attach_specialists
from mixalign.jobs.job import Job

__all__ = ["scored"]


def scored(
    job: Job, train: bool = False, check: Callable[[Job], None] = lambda job: None, finished: Path | None = None
) -> tuple[Job, Frozen]:
    """Scores every row under the reference policy, and under its task's specialist.

    Args:
        train: whether to train the specialists that are missing; else their losses are left out unless all are there.
        check: may refuse the job as it was read, and once more when the base model is known.
        finished: the folder of the run that is measured; see `reference_policy`.

    Returns:
        The job with the choices that depend on the model, its rows with these scores as columns; and the policy.
    """
    check(job)
    job, reference = reference_policy(job, check, finished)
    attach_reference(job, reference)
    attach_specialists(job, reference, train)
    return job, reference

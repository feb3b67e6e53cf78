"""The scores of the frozen models on every row of a job: those of the reference policy, and those of specialists."""

from mixalign.frozen.cache import Frozen
from mixalign.frozen.policy import attach_reference, reference_policy
from mixalign.frozen.specialists import attach_specialists
from mixalign.jobs.job import Job

__all__ = ["scored"]


def scored(job: Job, train: bool = False) -> tuple[Job, Frozen]:
    """Scores every row under the reference policy, and under its task's specialist.

    Args:
        train: whether to train the specialists that are missing; else their losses are left out unless all are there.

    Returns:
        The job with the choices that depend on the model, its rows with these scores as columns; and the policy.
    """
    job, reference = reference_policy(job)
    attach_reference(job, reference)
    attach_specialists(job, reference, train)
    return job, reference

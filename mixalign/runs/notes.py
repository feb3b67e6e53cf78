"""What is worth knowing of a run before it trains, and no reason to refuse it."""

from collections.abc import Sequence
from typing import Any

from mixalign.jobs.job import Job
from mixalign.mixers.base import Rule
from mixalign.objectives.base import Objective, values

__all__ = ["notes_of"]


def notes_of(job: Job, mixer: Rule) -> list[str]:
    """One sentence or two for each.

    Args:
        mixer: told the run's tasks and steps.
    """
    return [note for note in (_scales(job.objective, job.tasks), _cap(job, mixer)) if note]


def _scales(objective: Objective, tasks: Sequence[str]) -> str | None:
    """Names tasks whose losses are not on one scale: an ipo loss of 1.5 is no worse than a sigmoid loss of 0.6."""
    settings: Any = objective
    columns = [values(getattr(settings, name, None)) for name in ("loss", "reference_free")]
    losses, free = (column if len(column) > 1 else column * len(tasks) for column in columns)
    kinds: dict[str, list[str]] = {}
    for task, loss, is_free in zip(tasks, losses, free, strict=True):
        kinds.setdefault(f"{loss}, reference_free" if is_free else str(loss), []).append(f"`{task}`")
    if len(kinds) < 2:
        return None
    parts = "; ".join(f"{kind} of {', '.join(names)}" for kind, names in kinds.items())
    return (
        f"The losses of the tasks are not on one scale ({parts}), but mixers, the worst task and the mean compare "
        "them as nats. Give all tasks one `objective.loss`, or take mixer=velocitune, which compares the share of its "
        "distance to the specialist that each task still has."
    )


def _cap(job: Job, mixer: Rule) -> str | None:
    """Says when `max_epochs` of all tasks are over before the steps are."""
    batch_size = job.settings.batch_size
    allowed = mixer.max_epochs * float(job.rows_K.sum())
    if allowed >= job.steps * batch_size:
        return None
    return (
        f"`mixer.wrap.max_epochs={mixer.max_epochs:g}` allows about {allowed:,.0f} rows, but {job.steps} steps of "
        f"{batch_size} want {job.steps * batch_size:,}: the run ends after about {max(1, round(allowed / batch_size))} "
        "steps, in the middle of its learning-rate schedule. Set `steps` to that, or raise the cap."
    )

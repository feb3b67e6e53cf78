"""What deserves a second look before a run trains: it may be meant, so nothing is refused."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.frozen.policy import reference_steps
from mixalign.frozen.specialists import specialist_steps
from mixalign.jobs.job import Job
from mixalign.mixers.base import Rule
from mixalign.models.load import Pretrained
from mixalign.objectives.base import Objective, values
from mixalign.runs.origin import opens_answer

__all__ = ["chosen_of", "notes_of"]

LONG = 0.5  # share of a training
SHOWN = 3  # trainings of as many steps that are named
WIDE = ("float32", "float64")


def chosen_of(job: Job, train_specialists: bool) -> list[str]:
    """What was chosen for keys that were `auto`, and why, without the keys of stages that this run does not have.

    Args:
        train_specialists: whether missing ones are to be trained.
    """
    absent = {"reference.sft_": reference_steps(job) == 0, "specialists.": not train_specialists}
    left_out = tuple(group for group, is_absent in absent.items() if is_absent)
    lines = []
    for line in job.settings.chosen:
        values, bracket, why = line.partition(" (")
        kept = [value for value in values.split(", ") if not value.startswith(left_out)]
        lines += [f"{', '.join(kept)}{bracket}{why}"] if kept else []
    return lines


def notes_of(job: Job, mixer: Rule, train_specialists: bool) -> list[str]:
    """One sentence or two for each.

    Args:
        mixer: told the run's tasks and steps.
        train_specialists: whether missing ones are to be trained.
    """
    notes = (
        _scales(job.objective, job.tasks),
        _texts(job),
        _cap(job, mixer),
        _warm_up(job, train_specialists),
        _begins(job),
    )
    return [note for note in notes if note]


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


def _texts(job: Job) -> str | None:
    """Names the tasks of plain text that a chat model learns as it stands, without the template it is asked by."""
    if job.tokenizer.chat_template is None or not isinstance(job.settings.model, Pretrained):
        return None
    plain = [
        table.task
        for table in job.data["train"]
        if table.task in job.looks and job.looks[table.task].sorts.texts and not _opened(job, table)
    ]
    if not plain:
        return None
    names = ", ".join(f"`{task}`" for task in plain)
    turns = "give conversations, `prompt: [{role: user, content: ...}]`"
    if able := [task for task in plain if job.looks[task].sorts.prompted]:
        turns = f"set `data.tasks.{able[0]}.apply_chat_template=true` (so for each task), or {turns}"
    return (
        f"The rows of {names} are plain text, and are learned as they stand, without the chat template that this model "
        f"is asked by: what it learns may not show in a chat. For turns {turns}; where text is meant, do nothing."
    )


def _opened(job: Job, table: TaskDataset) -> bool:
    """Whether a row of text was written by the template already."""
    with suppress(MixalignError):  # of a template that wants more than a user's turn
        return opens_answer(job, table)
    return False


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


def _warm_up(job: Job, train_specialists: bool) -> str | None:
    """Names the trainings that are mostly warm-up: at low learning rates they learn little or nothing."""
    optimizer = job.settings.optimizer
    trainings = {"the generalist": job.steps, "the reference policy": reference_steps(job)}
    for number in range(len(job.tasks)) if train_specialists else ():
        trainings[f"the specialist of `{job.tasks[number]}`"] = specialist_steps(job, number)
    alike: dict[str, list[str]] = {}
    for who, steps in trainings.items():
        warm = min(steps, optimizer.warm_steps(steps)) if steps else 0
        if warm > LONG * steps:
            alike.setdefault(f"{warm:g} of {steps} steps", []).append(who)
    mostly = [f"{share} of {_named(who)}" for share, who in alike.items()]
    if not mostly:
        return None
    return (
        f"Inside the warm-up are {', '.join(mostly)}: little is learned there. Set `optimizer.warmup_steps` to a share "
        "of the steps, such as 0.1, or train for more steps."
    )


def _named(trainings: list[str]) -> str:
    more = f" and {len(trainings) - SHOWN} more" if len(trainings) > SHOWN else ""
    return ", ".join(trainings[:SHOWN]) + more


def _begins(job: Job) -> str | None:
    """Says of a training that begins at an adapter what becomes of that, where it may not be what is meant."""
    source = job.settings.model
    if not isinstance(source, Pretrained) or source.adapter() is None:
        return None
    said = []
    if job.settings.lora is None:
        said.append("all weights of both are trained; `lora=default` trains a new adapter on them instead")
    if source.dtype not in WIDE:
        said.append(f"`model.dtype={source.dtype}` rounds what the adapter changes; float32 keeps it")
    what = f"`model.path={source.path}` is an adapter, and the run begins at one model of it and its base"
    return f"{what}: {'; '.join(said)}." if said else None

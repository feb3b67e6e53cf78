"""The plan of a run: rows, tokens, shares and epochs of every task, the trainings that it takes, and a second look."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mixalign.data.dataset import TaskDataset
from mixalign.data.read.columns import ColumnUse
from mixalign.data.tokens.tokenise import TokenCounts
from mixalign.frozen.folds import fold_of
from mixalign.frozen.policy import reference_steps
from mixalign.frozen.specialists import specialist_steps
from mixalign.jobs.job import Job
from mixalign.mixers.base import Rule
from mixalign.planning.estimate import Estimate, estimate
from mixalign.planning.rows import ShownRow, shown_rows
from mixalign.runs.check import needs_specialists
from mixalign.runs.influence_cost import influence_text
from mixalign.runs.notes import chosen_of, notes_of
from mixalign.terminal import counted

__all__ = ["Plan", "PlanRow", "make_plan", "plan_rows", "stages", "warnings_of"]

MANY_EPOCHS = 4  # repeats up to here are worth about as much as fresh rows (Muennighoff et al., arXiv 2305.16264)


@dataclass(frozen=True)
class PlanRow:
    """One task of the plan.

    Attributes:
        counts: what tokenisation kept of the training split.
        duplicates: kept training rows with the same tokens, mask and label as an earlier one.
        validation: validation rows.
        sample: probability that a drawn row is of this task, under the mixer's first mixture.
        token_share: its share of the training tokens, by that mixture and the mean length of its rows.
        supervised_share: likewise of the supervised tokens.
        epochs: times its rows would be seen by that mixture.
        epochs_if_all: likewise, if it got the whole mixture.
    """

    counts: TokenCounts
    duplicates: int
    validation: int
    sample: float
    token_share: float
    supervised_share: float
    epochs: float
    epochs_if_all: float


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        mixer, objective: their names; `steps` and `batch_size` of the generalist.
        note: whether the mixture of the shares stays.
        rows: one entry a task.
        columns: what the columns of each task's rows are used for; all empty for generated tasks.
        shown: training rows of each task with their masks.
        held: which rows validate and test, where not all tasks bring their own.
        stages: the trainings that the run would make, if the cache lacks them.
        estimate: how many these are, and what they take.
        chosen: the keys that were `auto`, and why they are what they are.
        warnings: what deserves a second look before training.
    """

    mixer: str
    objective: str
    steps: int
    batch_size: int
    note: str
    rows: list[PlanRow]
    columns: dict[str, ColumnUse] = field(default_factory=dict)
    shown: dict[str, list[ShownRow]] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    estimate: Estimate | None = None
    chosen: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make_plan(job: Job, num_rows: int = 1, take_time: bool = False, in_sweep: bool = False) -> Plan:
    """The plan of a job, with the first `num_rows` training rows of every task to look at.

    Args:
        take_time: whether the model is loaded and trained for a few steps, to see how long the run will take.
        in_sweep: whether the run is one of several that will be compared, which may need specialists for that.
    """
    settings, train = job.settings, needs_specialists(job.settings, in_sweep)
    mixer = settings.mixer.for_run(job.tasks, job.steps)
    rows = plan_rows(job, mixer)
    return Plan(
        mixer=settings.mixer_name,
        objective=settings.objective_name,
        steps=job.steps,
        batch_size=settings.batch_size,
        note=_note(mixer),
        rows=rows,
        columns={task: look.columns for task, look in job.looks.items()},
        shown={d.task: shown_rows(d, job.tokenizer, job.objective.form, num_rows) for d in job.data["train"]},
        held=held_out(job),
        stages=stages(job, mixer, train),
        estimate=estimate(job, mixer, train, _timed(job) if take_time else None),
        chosen=chosen_of(job, train),
        warnings=[*warnings_of(rows), *notes_of(job, mixer, train)],
    )


def _timed(job: Job) -> Any:
    from mixalign.frozen.timed import timed  # loads Lightning

    return timed(job)


def plan_rows(job: Job, mixer: Rule) -> list[PlanRow]:
    """One row a task, for `steps * batch_size` drawn rows."""
    rows_K = job.rows_K
    sample_K = mixer.init(rows_K)[0].sample_K
    drawn = job.steps * job.settings.batch_size
    counts = [c for split, c in job.counts if split == "train"]
    token_K = _share(sample_K, [c.tokens / c.kept for c in counts])
    supervised_K = _share(sample_K, [c.supervised_tokens / c.kept for c in counts])
    epochs_K, most_K = sample_K * drawn / rows_K, drawn / rows_K
    columns = (
        counts,
        map(_duplicates, job.data["train"]),
        map(len, job.data["validation"]),
        sample_K.tolist(),
        token_K.tolist(),
        supervised_K.tolist(),
        epochs_K.tolist(),
        most_K.tolist(),
    )
    return [PlanRow(*cells) for cells in zip(*columns, strict=True)]


def held_out(job: Job) -> list[str]:
    """Says how many rows of each task were cut for validation, and on what results stand without test rows."""
    lines = []
    if cut := {task: look for task, look in job.looks.items() if look.cut}:
        parts = ", ".join(f"{look.cut:,} of the {look.source_rows:,} rows of `{task}`" for task, look in cut.items())
        lines.append(
            f"validation: {parts}, taken from the train rows as there are no validation rows "
            f"(data.validation_fraction={job.settings.data.validation_fraction:g} of the prompts)"
        )
    if "test" not in job.data:
        lines.append("test: no task has test rows, and none are cut: results stand on the validation rows")
    return lines


def _share(sample_K: torch.Tensor, length_K: Sequence[float]) -> torch.Tensor:
    """Share of each task in all tokens (K,), where rows are drawn with `sample_K` and have `length_K` tokens."""
    drawn_K = sample_K * torch.tensor(length_K, dtype=torch.float64)
    return drawn_K / drawn_K.sum()


def _duplicates(table: TaskDataset) -> int:
    return len(table) - len(np.unique(table.row_id_N))


def warnings_of(rows: list[PlanRow]) -> list[str]:
    """What deserves a second look before training."""
    warnings = []
    often = [f"`{row.counts.task}` ({row.epochs:.1f} times)" for row in rows if row.epochs > MANY_EPOCHS]
    if often:
        warnings.append(
            f"Repeated more than {MANY_EPOCHS} times: {', '.join(often)}. Further repeats teach little. Lower "
            "`steps`, or take a mixture that is closer to proportional."
        )
    for row in rows:
        c, name = row.counts, f"Task `{row.counts.task}`"
        if row.sample == 0:
            warnings.append(f"{name} has weight zero and would never be drawn.")
        if c.truncated > c.kept / 2:
            warnings.append(f"{name}: {c.truncated} of {c.kept} rows are cut at max_length. Raise `data.max_length`.")
        if c.kept < c.rows / 2:
            warnings.append(
                f"{name}: only {c.kept} of {c.rows} rows are left. Raise `data.max_length`, or look at the rows."
            )
    return warnings


def _note(mixer: Rule) -> str:
    if mixer.final:
        return "the proxy's first mixture; the model is then trained on the mean of the proxy's weights"
    if mixer.cadence == "round":
        return "round 0; volumes then change between trainings, by what more of each task does for the target loss"
    moves = not mixer.static and mixer.composition == "multinomial"
    return "first mixture; the mixer moves it while it trains" if moves else "this mixture stays"


def stages(job: Job, mixer: Rule, train_specialists: bool) -> list[str]:
    """The trainings that the run would make, if the cache lacks them."""
    settings, lines = job.settings, []
    if steps := reference_steps(job):
        lines.append(f"reference: {counted(steps, 'step')} of SFT x {settings.reference.sft_batch_size} rows")
    if train_specialists:
        lines.append(_specialists(job))
    if mixer.cadence == "round":
        return [*lines, *_rounds(job, mixer)]
    made = {"baseline": mixer.excess_over == "baseline", "proxy": mixer.final, "generalist": True}
    return lines + [
        f"{name}: {counted(job.steps, 'step')} x {settings.batch_size} rows"
        for name, is_made in made.items()
        if is_made
    ]


def _specialists(job: Job) -> str:
    settings, train = job.settings.specialists, job.data["train"]
    folds, parts = settings.folds, []
    for number, table in enumerate(train):
        sizes = np.bincount(fold_of(table, folds), minlength=folds) if folds > 1 else [0]
        parts += [specialist_steps(job, number, len(table) - int(size)) for size in sizes]
    crossed = f" ({folds} a task, each without a part of its rows)" if folds > 1 else ""
    most = "at most " * (settings.patience is not None)
    steps = counted(sum(parts), "step")
    return f"specialists: {len(parts)}{crossed}, {most}{steps} in all x {settings.batch_size} rows"


def _rounds(job: Job, mixer: Any) -> list[str]:
    """The trainings of a rule that decides between them, and what it measures there."""
    also = " in round 0, then as many as the volumes take" if getattr(mixer, "budget", "steps") == "epochs" else " each"
    return [
        f"rounds 0 to {mixer.rounds}: {counted(mixer.rounds + 1, 'training')} from the same start, "
        f"{counted(job.steps, 'step')}"
        f"{also} x {job.settings.batch_size} rows",
        f"influence after each of them but the last: {influence_text(job)}; what round 0 gives is kept in the cache",
    ]

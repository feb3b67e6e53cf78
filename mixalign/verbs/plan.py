"""Prints rows, tokens, shares and epochs of every task in advance."""

from dataclasses import dataclass

import torch

from mixalign.config.command_line import NO_FOLDER, with_settings
from mixalign.config.settings import RunSettings
from mixalign.data.tokens.tokenise import TokenCounts
from mixalign.frozen.policy import reference_steps
from mixalign.frozen.specialists import specialist_steps
from mixalign.jobs.job import Job, prepare
from mixalign.mixers.base import Rule
from mixalign.runs.check import needs_specialists
from mixalign.terminal import Column, table_text, wrap

__all__ = ["PlanRow", "main", "plan_rows", "run", "warnings_of"]

MANY_EPOCHS = 4  # repeats up to here are worth about as much as fresh rows (Muennighoff et al., arXiv 2305.16264)


@dataclass(frozen=True)
class PlanRow:
    """One task of the plan.

    Attributes:
        counts: what tokenisation kept of the training split.
        validation: validation rows.
        sample: probability that a drawn row is of this task, under the mixer's first mixture.
        token_share: its share of the training tokens, by that mixture and the mean length of its rows.
        epochs: times its rows would be seen by that mixture.
        epochs_if_all: likewise, if it got the whole mixture.
    """

    counts: TokenCounts
    validation: int
    sample: float
    token_share: float
    epochs: float
    epochs_if_all: float


def plan_rows(job: Job, mixer: Rule) -> list[PlanRow]:
    """One row a task, for `steps * batch_size` drawn rows."""
    rows_K = job.rows_K
    sample_K = mixer.init(rows_K)[0].sample_K
    drawn = job.steps * job.settings.batch_size
    counts = [c for split, c in job.counts if split == "train"]
    length_K = torch.tensor([c.tokens / c.kept for c in counts], dtype=torch.float64)
    token_K = sample_K * length_K / (sample_K * length_K).sum()
    epochs_K, most_K = sample_K * drawn / rows_K, drawn / rows_K
    columns = (
        counts,
        job.data["validation"],
        sample_K.tolist(),
        token_K.tolist(),
        epochs_K.tolist(),
        most_K.tolist(),
    )
    return [PlanRow(c, len(v), *rest) for c, v, *rest in zip(*columns, strict=True)]


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


def main() -> None:
    """`mixalign plan` with what stands behind it on the command line."""
    with_settings(run, *NO_FOLDER)


def run(settings: RunSettings) -> None:
    """Prints the plan: tasks, rows, tokens, shares, epochs, stages and warnings."""
    job = prepare(settings)
    mixer = settings.mixer.for_run(job.tasks, job.steps)
    rows = plan_rows(job, mixer)
    title = f"{settings.mixer_name}: {job.steps} steps of {settings.batch_size} rows, {settings.objective_name}"
    moves = not mixer.static and mixer.composition == "multinomial"
    note = "first mixture; the mixer moves it while it trains" if moves else "this mixture stays"
    if mixer.final:
        note = "the proxy's first mixture; the model is then trained on the mean of the proxy's weights"
    print(_table(rows, title, f"share and epochs: {note}."))
    lines = [*_stages(job, mixer), *(f"chosen: {line}" for line in settings.chosen)]
    for line in [*lines, *(f"warning: {text}" for text in warnings_of(rows))]:
        print(wrap(line))


def _table(rows: list[PlanRow], title: str, note: str) -> str:
    read = ("rows", "dropped", "cut", "validation", "tokens", "supervised")
    seen = ("share", "of tokens", "epochs", "if all")
    columns: list[str | Column] = [
        "task",
        *(Column(name, group="read") for name in read),
        *(Column(name, group="seen") for name in seen),
    ]
    return table_text(columns, [_cells(row) for row in rows], title=title, note=note)


def _cells(row: PlanRow) -> list[str]:
    c = row.counts
    counts = (c.kept, c.rows - c.kept, c.truncated, row.validation, c.tokens, c.supervised_tokens)
    shares, epochs = (row.sample, row.token_share), (row.epochs, row.epochs_if_all)
    return [c.task, *(f"{n:,}" for n in counts), *(f"{x:.1%}" for x in shares), *(f"{x:.2f}" for x in epochs)]


def _stages(job: Job, mixer: Rule) -> list[str]:
    """The trainings that the run would make, if the cache lacks them."""
    settings, lines = job.settings, []
    if steps := reference_steps(job):
        lines.append(f"reference: {steps} steps of SFT x {settings.reference.sft_batch_size} rows")
    if needs_specialists(settings, in_sweep=False):
        total = sum(specialist_steps(job, task) for task in range(len(job.tasks)))
        lines.append(f"specialists: {len(job.tasks)}, {total} steps in all x {settings.specialists.batch_size} rows")
    stages = {"baseline": mixer.excess_over == "baseline", "proxy": mixer.final, "generalist": True}
    made = [name for name, is_made in stages.items() if is_made]
    return lines + [f"{name}: {job.steps} steps x {settings.batch_size} rows" for name in made]

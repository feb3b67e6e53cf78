"""`mixalign plan`: what a run would see, before anything is trained."""

from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from mixalign.data.tokenise import TokenCounts
from mixalign.mixers.base import Mixer
from mixalign.mixers.lengths import for_run
from mixalign.pipelines.build import build_mixer
from mixalign.pipelines.job import Job, prepare
from mixalign.pipelines.proxy import has_final
from mixalign.pipelines.stages import excess_over, reference_steps, specialist_steps
from mixalign.pipelines.train import needs_specialists

__all__ = ["PlanRow", "plan_rows", "run", "warnings_of"]

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


def plan_rows(job: Job, mixer: Mixer) -> list[PlanRow]:
    """One row a task, for `steps * batch_size` drawn rows."""
    rows_K = torch.tensor([len(d) for d in job.data["train"]], dtype=torch.float64)
    sample_K = mixer.init(rows_K)[0].sample_K
    drawn = job.cfg.steps * job.cfg.batch_size
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
    said = []
    often = [f"`{row.counts.task}` ({row.epochs:.1f} times)" for row in rows if row.epochs > MANY_EPOCHS]
    if often:
        said.append(
            f"Repeated more than {MANY_EPOCHS} times: {', '.join(often)}. Further repeats teach little. Lower "
            "`steps`, or take a mixture that is closer to proportional."
        )
    for row in rows:
        c, name = row.counts, f"Task `{row.counts.task}`"
        if row.sample == 0:
            said.append(f"{name} has weight zero and would never be drawn.")
        if c.truncated > c.kept / 2:
            said.append(f"{name}: {c.truncated} of {c.kept} rows are cut at max_length. Raise `data.max_length`.")
        if c.kept < c.rows / 2:
            said.append(
                f"{name}: only {c.kept} of {c.rows} rows are left. Raise `data.max_length`, or look at the rows."
            )
    return said


def run(cfg: DictConfig) -> None:
    """Prints the plan: tasks, rows, tokens, shares, epochs, stages and warnings."""
    mixer = build_mixer(cfg.mixer)
    job = prepare(cfg)
    mixer = for_run(mixer, job.tasks, cfg.steps)
    rows = plan_rows(job, mixer)
    console = Console(width=118)
    title = f"{cfg.mixer.name}: {cfg.steps} steps of {cfg.batch_size} rows, {cfg.objective.name}"
    console.print(_table(rows, title))
    moves = bool(mixer.needs) and mixer.composition == "multinomial"
    note = "first mixture; the mixer moves it while it trains" if moves else "this mixture stays"
    if has_final(mixer):
        note = "the proxy's first mixture; the model is then trained on the mean of the proxy's weights"
    console.print(f"share and epochs: {note}.")
    for line in _stages(job, mixer):
        console.print(line)
    for text in warnings_of(rows):
        console.print(f"[yellow]warning:[/yellow] {text}")


def _table(rows: list[PlanRow], title: str) -> Table:
    heads = (
        "task",
        "rows",
        "dropped",
        "cut",
        "validation",
        "tokens",
        "supervised",
        "share",
        "of tokens",
        "epochs",
        "if all",
    )
    table = Table(*heads, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        c = row.counts
        table.add_row(
            c.task,
            f"{c.kept:,}",
            f"{c.rows - c.kept:,}",
            f"{c.truncated:,}",
            f"{row.validation:,}",
            f"{c.tokens:,}",
            f"{c.supervised_tokens:,}",
            f"{row.sample:.1%}",
            f"{row.token_share:.1%}",
            f"{row.epochs:.2f}",
            f"{row.epochs_if_all:.2f}",
        )
    return table


def _stages(job: Job, mixer: Mixer) -> list[str]:
    """The trainings that the run would make, if the cache lacks them."""
    cfg, lines = job.cfg, []
    if steps := reference_steps(job):
        lines.append(f"reference: {steps} steps of SFT x {cfg.reference.sft_batch_size} rows")
    if needs_specialists(cfg, mixer, in_sweep=False):
        total = sum(specialist_steps(job, task) for task in range(len(job.tasks)))
        lines.append(f"specialists: {len(job.tasks)}, {total} steps in all x {cfg.specialists.batch_size} rows")
    made = {"baseline": excess_over(mixer) == "baseline", "proxy": has_final(mixer), "generalist": True}
    return lines + [f"{stage}: {cfg.steps} steps x {cfg.batch_size} rows" for stage, is_made in made.items() if is_made]

"""Comparisons as tables of plain text, for a terminal and for the page."""

from collections.abc import Sequence
from typing import NamedTuple

from mixalign.final_rows import FinalRows
from mixalign.reporting.judge.comparison import TITLES, Comparison, Row
from mixalign.reporting.judge.costs import Spent
from mixalign.reporting.judge.statistics import Paired, Score
from mixalign.reporting.read.costs import times_text
from mixalign.reporting.read.files import number
from mixalign.reporting.read.runs import Run

__all__ = ["Table", "extra_steps", "methods_table", "scores_table", "tasks_table", "telling"]

MEANS = "Mean \u00b1 standard error over seeds, sorted by {title}; a single seed has no error. "
COSTS = (
    "Every method trains the model that is judged for the same number of steps; what it spends beside them is its "
    "cost. Steps are optimizer steps beyond those, specialists counted in full for every method that reads them. Time"
    " is that of all these trainings, with validations, measurements of the method and scoring of training rows{times}."
    " The reference policy and the last evaluation, which every run has, are left out. Memory is the peak above what "
    "was held before a training, in MiB{memory}."
)
TIMES = (
    ", as a multiple of plain training ({}) on the same seed, of the seconds of the CPU where it trains, else of those "
    "by the clock"
)
MEMORY = ", and in brackets the difference to plain training"


class Table(NamedTuple):
    """Titles, rows of plain text, and what one sees in them."""

    titles: list[str]
    rows: list[list[str]]
    caption: str


def methods_table(comparison: Comparison) -> Table:
    """One row a label, best first. Columns on cost are there when some run says what it cost."""
    scores = comparison.columns
    priced = any(row.spent for row in comparison.rows)
    titles = ["method", "seeds", *(TITLES[name] for name in scores)]
    titles += [f"{TITLES[comparison.metric]} minus {name}" for name in comparison.baselines]
    titles += ["extra steps", "time", "memory"] if priced else []
    rows = [
        [
            row.label,
            str(len(row.seeds)),
            *(str(row.scores[name]) for name in scores),
            *(_difference(row.differences.get(name, {}).get(comparison.metric)) for name in comparison.baselines),
            *(_costs(row) if priced else []),
        ]
        for row in comparison.rows
    ]
    caption = MEANS.format(title=TITLES[comparison.metric]) + (
        "Losses, excess and gap in nats, lower is better; accuracy and score in [0, 1]. "
        "Differences are taken within each seed, with the 95 % interval of their mean (Student's t) in brackets, and "
        "in how many seeds the method is better. The baseline is shaded. "
    )
    plain = comparison.plain
    costs = COSTS.format(times=TIMES.format(plain) if plain else "", memory=MEMORY if plain else "")
    return _told(titles, rows, caption + (costs if priced else ""))


def scores_table(comparison: Comparison) -> Table:
    """One row a label, best first: every score over the seeds."""
    titles = ["mixer", "seeds", *(TITLES[name] for name in comparison.columns)]
    rows = [
        [row.label, str(len(row.seeds)), *(str(row.scores[name]) for name in comparison.columns)]
        for row in comparison.rows
    ]
    caption = MEANS.format(title=TITLES[comparison.metric]) + (
        "Losses, excess and gap in nats, lower is better; accuracy and score in [0, 1]. The baseline is shaded."
    )
    return _told(titles, rows, caption)


def telling(rows: Sequence[Sequence[str]]) -> list[int]:
    """Numbers of the columns that say something of some row, and of the first."""
    return [n for n in range(len(rows[0])) if n == 0 or any(row[n] not in ("", "-") for row in rows)]


def _told(titles: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Table:
    """The table without columns that say nothing."""
    kept = telling(rows)
    return Table([titles[n] for n in kept], [[row[n] for n in kept] for row in rows], caption)


def tasks_table(comparison: Comparison, runs: Sequence[Run]) -> Table:
    """One row a task, one column a label: the score that rows are ranked by, mean over seeds."""
    key = comparison.metric.removeprefix("worst_")
    groups = {row.label: [run for run in runs if run.label == row.label] for row in comparison.rows}
    tasks = list(dict.fromkeys(task for run in runs for task in run.eval["tasks"]))
    rows = [[task, *(str(_of_task(group, task, key)) for group in groups.values())] for task in tasks]
    word = FinalRows.of(run.eval for run in runs).word.capitalize()
    caption = (
        f"{word} {key} in nats, mean \u00b1 standard error over seeds. A task that is high under every mixer is hard; "
        "one that is high under a few of them is neglected there."
    )
    return Table(["task", *groups], rows, caption)


def _of_task(group: Sequence[Run], task: str, key: str) -> Score:
    return Score.of([number(run.eval["tasks"].get(task, {}).get(key)) for run in group])


def extra_steps(bill: Spent) -> tuple[str, str]:
    """`+1,200` and what they were for; `0` and nothing for plain training."""
    steps = round(bill.extra_steps.mean) if bill.extra_steps.n else None
    return "-" if steps is None else f"{steps:+,}" if steps else "0", ", ".join(bill.parts)


def _difference(pair: Paired | None) -> str:
    if pair is None or not pair.n:
        return "-"
    better = f"better in {pair.wins}/{pair.n}"
    return f"{pair.mean:+.3f} {pair.interval} {better}" if pair.n > 1 else f"{pair.mean:+.3f} ({better})"


def _costs(row: Row) -> list[str]:
    """Extra steps and what for, time, memory; dashes where the runs do not say."""
    bill = row.spent
    if bill is None:
        return ["-", "-", "-"]
    steps, parts = extra_steps(bill)
    time = times_text(bill.clock.mean, bill.cpu.mean)
    more = f" ({bill.more_memory.mean:+.0f}{_error(bill.more_memory)})" if bill.more_memory.n else ""
    return [
        f"{steps} ({parts})" if parts else steps,
        f"{bill.times.mean:.2f}\u00d7 ({time})" if bill.times.n and time else time or "-",
        f"{bill.memory.mean:.0f}{more}" if bill.memory.n else "-",
    ]


def _error(score: Score) -> str:
    return f" \u00b1 {score.error:.0f}" if score.n > 1 else ""

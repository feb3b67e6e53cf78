"""What the page's template is given: plain text in tables, sentences and pictures; the template does the HTML."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from mixalign.reporting.judge.comparison import TITLES, Comparison
from mixalign.reporting.judge.rounds import histories
from mixalign.reporting.judge.statistics import Score
from mixalign.reporting.judge.verdicts import Statement
from mixalign.reporting.read.files import number
from mixalign.reporting.read.runs import Run
from mixalign.reporting.show import rounds
from mixalign.reporting.show.generations import ShownSample, generation_scores, shown_samples
from mixalign.reporting.show.pictures import Picture, forests, picture, pictures
from mixalign.reporting.show.plots.rounds import round_paths
from mixalign.reporting.show.tables import Table, differences_table, methods_table, scores_table

__all__ = ["Cell", "Page", "ShownRun", "ShownTable", "page_of", "plus_minus"]

NUMBERS = (
    "loss",
    "accuracy",
    "margin",
    "excess",
    "gap",
    "specialist_loss",
    "score_before",
    "score",
)  # of a task, in the order of the columns


class Cell(NamedTuple):
    """A cell's text, and what stands smaller beside it: an error, an interval, an explanation."""

    main: str
    small: str = ""

    @classmethod
    def of(cls, text: str) -> "Cell":
        """`0.1+-0.2` without its error, `-0.1 [-0.2, 0.0]` without what is in brackets."""
        mean, mark, error = text.partition("+-")
        if mark:
            return cls(mean, f"\u00b1 {error}")
        for bracket in ("[", "("):
            main, mark, rest = text.partition(f" {bracket}")
            if mark:
                return cls(main, f"{bracket}{rest}")
        return cls(text)


@dataclass(frozen=True)
class ShownTable:
    """A table; its first column names the rows.

    Attributes:
        shaded: The name of the row that stands out; empty when none does.
        stacked: Whether what is small stands below what is not.
    """

    titles: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    caption: str = ""
    shaded: str = ""
    stacked: bool = False

    @classmethod
    def of(cls, table: Table, shaded: str = "", stacked: bool = False) -> "ShownTable":
        """The table with its cells split."""
        rows = [(row[0], [Cell.of(text) for text in row[1:]]) for row in table.rows]
        return cls(table.titles, rows, table.caption, shaded, stacked)


@dataclass(frozen=True)
class ShownRun:
    """One run's numbers by task."""

    label: str
    seed: int
    folder: str
    table: ShownTable


@dataclass(frozen=True)
class ShownRounds:
    """What is shown of runs that were made in rounds."""

    sentences: Sequence[str]
    picture: Picture
    tables: Sequence[ShownTable]


@dataclass(frozen=True)
class ShownGenerations:
    """What models generated: scores by task where there are some, and answers side by side."""

    scores: ShownTable | None
    samples: Sequence[ShownSample]


@dataclass(frozen=True)
class Page:
    """All that the template shows, in its order.

    Attributes:
        facts: What was compared: terms and what is said of them.
        pairs: Whether the rows are preference pairs, whose accuracy is another one.
    """

    lead: str
    notes: Sequence[str]
    facts: Mapping[str, str]
    statements: Sequence[Statement]
    methods: ShownTable
    forests: Sequence[Picture]
    scores: ShownTable
    differences: ShownTable
    pictures: Sequence[Picture]
    generations: ShownGenerations | None
    rounds: ShownRounds | None
    runs: Sequence[ShownRun]
    skipped: Sequence[tuple[str, str]]
    pairs: bool


def page_of(runs: Sequence[Run], comparison: Comparison) -> Page:
    """The view of these finished runs, with all figures drawn."""
    best = comparison.rows[0]
    if comparison.metric == "worst_loss":  # excess over several sets of specialists compares nowhere on the page
        runs = [run.without_excess() for run in runs]
    return Page(
        lead=f"Lowest {TITLES[comparison.metric]}: {best.label}, {_spelled(best.scores[comparison.metric])} nats.",
        notes=comparison.notes,
        facts=_facts(runs, comparison),
        statements=comparison.statements(),
        methods=ShownTable.of(methods_table(comparison), comparison.baseline, stacked=True),
        forests=forests(comparison),
        scores=ShownTable.of(scores_table(comparison), comparison.baseline),
        differences=ShownTable.of(differences_table(comparison)),
        pictures=pictures(runs, comparison),
        generations=_generations(runs),
        rounds=_rounds(runs),
        runs=[_shown_run(run) for run in runs],
        skipped=comparison.skipped,
        pairs=any(_has(run.eval["tasks"], "margin") for run in runs),
    )


def plus_minus(text: str) -> str:
    """`0.1+-0.2` with the sign that ASCII lacks."""
    return text.replace("+-", " \u00b1 ")


def _facts(runs: Sequence[Run], comparison: Comparison) -> dict[str, str]:
    rows = {task: row.get("rows", "?") for run in runs for task, row in run.eval["tasks"].items()}
    return {
        "Compared": f"{_plural(len(runs), 'run')}, {_plural(len(comparison.rows), 'method')}",
        "Objective": _listed(run.objective for run in runs),
        "Seeds": _listed(sorted({run.seed for run in runs})),
        "Split": _listed(run.split for run in runs),
        "Steps": _listed(run.mixture.get("steps", run.config.get("steps")) for run in runs),
        "Baseline": comparison.baseline,
        "Tasks and evaluated rows": ", ".join(f"{task} {count}" for task, count in rows.items()),
    }


def _listed(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value not in ("", None))) or "not recorded"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _spelled(score: Score) -> str:
    if score.n < 2:
        return "-" if not score.n else f"{score.mean:.3f} (one seed)"
    return f"{score.mean:.3f} \u00b1 {score.error:.3f}"


def _generations(runs: Sequence[Run]) -> ShownGenerations | None:
    samples, scores = shown_samples(runs), generation_scores(runs)
    if not samples and scores is None:
        return None
    return ShownGenerations(ShownTable.of(scores) if scores else None, samples)


def _rounds(runs: Sequence[Run]) -> ShownRounds | None:
    groups = histories(runs)
    if not groups:
        return None
    tables = [ShownTable.of(table) for table in (rounds.settings_table(groups), rounds.tasks_table(groups))]
    return ShownRounds(rounds.sentences(groups), picture(partial(round_paths, runs), rounds.CAPTION), tables)


def _shown_run(run: Run) -> ShownRun:
    tasks = run.eval["tasks"]
    keys = [key for key in NUMBERS if _has(tasks, key)]
    seen = {key: dict(zip(run.tasks, run.mixture.get(key) or (), strict=False)) for key in ("rows_seen", "epochs_seen")}
    rows = []
    for task, row in tasks.items():
        cells = [_rounded(row.get(key), 3) for key in keys]
        cells += [_rounded(seen["rows_seen"].get(task), 0), _rounded(seen["epochs_seen"].get(task), 2)]
        rows.append((task, cells))
    titles = ["task", *(key.replace("_", " ") for key in keys), "rows seen", "epochs seen"]
    return ShownRun(run.label, run.seed, "/".join(run.path.parts[-2:]), ShownTable(titles, rows))


def _has(tasks: Mapping[str, Mapping[str, Any]], key: str) -> bool:
    return any(not math.isnan(number(row.get(key))) for row in tasks.values())


def _rounded(value: object, digits: int) -> Cell:
    amount = number(value)
    return Cell("-" if math.isnan(amount) else f"{amount:,.{digits}f}")

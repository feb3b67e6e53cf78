"""The comparison for a terminal: tables that fit it and sentences, in ASCII."""

from collections.abc import Sequence

from mixalign.reporting.judge.comparison import TITLES, Comparison, compare
from mixalign.reporting.judge.statistics import Paired
from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.tables import extra_steps, scores_table, telling
from mixalign.terminal import Column, table_text, wrap

__all__ = ["comparison_text", "report_text"]

ERRORS = "mean +- standard error over seeds; (-) marks a single seed"
TIMES = 5  # the column of the multiples
ALONE = "one seed, so without standard errors"
COSTS = (
    "extra steps: optimizer steps beyond plain training; time: of the training with its validations, and of the "
    "specialists, proxies and rounds that it needs, without the reference policy and the last evaluation, which every "
    "run has"
)


def report_text(runs: Sequence[Run], baseline: str | None = None, width: int | None = None) -> str:
    """The comparison of each group of runs that can be compared, under its name where there are several.

    Raises:
        MixalignError: No run has scores.
    """
    groups = dict.fromkeys(run.group for run in runs if not run.skipped)
    if len(groups) < 2:
        return comparison_text(compare(runs, baseline), width)
    parts = []
    for title in groups:
        comparison = compare([run for run in runs if run.group == title and not run.skipped], baseline)
        parts.append("\n\n".join([wrap(title, width), comparison_text(comparison, width)]))
    skipped = [f"Skipped {'/'.join(run.path.parts[-2:])}: {run.skipped}" for run in runs if run.skipped]
    parts += ["\n".join(wrap(line, width) for line in skipped)] if skipped else []
    return "\n\n\n".join(parts)


def comparison_text(comparison: Comparison, width: int | None = None) -> str:
    """Scores, paired differences and costs as tables, then the verdicts, the notes and the runs left out.

    Args:
        width: Columns of the terminal; None asks it.
    """
    parts = [_scores(comparison, width)]
    parts += [_differences(comparison, width)] if any(row.differences for row in comparison.rows) else []
    parts += [_costs(comparison, width)] if any(row.spent for row in comparison.rows) else []
    lines = [*comparison.sentences(), *(f"Note: {note}" for note in comparison.notes)]
    lines += [f"Skipped {path}: {reason}" for path, reason in comparison.skipped]
    parts += ["\n".join(wrap(line, width) for line in lines)] if lines else []
    return "\n\n".join(parts)


def _scores(comparison: Comparison, width: int | None) -> str:
    table = scores_table(comparison)
    label, *numbers = table.titles
    columns = [Column(label, text=True), *(Column(title, group=title.split()[0]) for title in numbers)]
    notes = [ALONE if _alone(comparison) else ERRORS, "nats"]
    notes += [f"accuracy: {comparison.accuracy}"] if any("accuracy" in title for title in numbers) else []
    return table_text(columns, _without_marks(comparison, table.rows), note="; ".join(notes), width=width)


def _alone(comparison: Comparison) -> bool:
    """Whether no label has several seeds, so that none has an error."""
    return all(len(row.seeds) < 2 for row in comparison.rows)


def _without_marks(comparison: Comparison, rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Cells without what marks a single seed, where all have it."""
    return [[cell.removesuffix(" (-)") if _alone(comparison) else cell for cell in row] for row in rows]


def _differences(comparison: Comparison, width: int | None) -> str:
    shown = comparison.baselines[:2]  # the page has all
    columns = [Column("mixer", text=True)]
    for name in shown:
        columns += [Column(f"minus {name}", group=name), Column("better in", group=name)]
    rows = []
    for row in comparison.rows:
        if row.differences:
            pairs = [row.differences.get(name, {}).get(comparison.metric) for name in shown]
            rows.append([row.label, *(cell for pair in pairs for cell in _against(pair))])
    interval = "" if _alone(comparison) else ", 95 % t interval"
    note = f"paired by seed: mean difference in {TITLES[comparison.metric]}{interval}, seeds better"
    return table_text(columns, _without_marks(comparison, rows), note=note, width=width)


def _against(pair: Paired | None) -> tuple[str, str]:
    if pair is None or not pair.n:
        return "-", "-"
    return (f"{pair.mean:+.3f} {pair.interval}" if pair.n > 1 else pair.signed), f"{pair.wins}/{pair.n}"


def _costs(comparison: Comparison, width: int | None) -> str:
    columns = [
        Column("mixer", text=True),
        Column("extra steps"),
        Column("for", text=True),
        *map(Column, ("clock s", "CPU s", f"times {comparison.plain}", "memory MiB")),
    ]
    rows = []
    for row in comparison.rows:
        if row.spent:
            more = f"{row.spent.times.mean:.2f}" if row.spent.times.n and len(comparison.rows) > 1 else "-"
            clock, cpu, memory = (
                f"{s.mean:.1f}" if s.n else "-" for s in (row.spent.clock, row.spent.cpu, row.spent.memory)
            )
            rows.append([row.label, *extra_steps(row.spent), clock, cpu, more, memory])
    kept = telling(rows)
    units = dict.fromkeys(row.spent.unit for row in comparison.rows if row.spent)
    note = COSTS + (f"; multiples are of {' or '.join(units)}" if TIMES in kept else "")
    return table_text([columns[n] for n in kept], [[row[n] for n in kept] for row in rows], note=note, width=width)

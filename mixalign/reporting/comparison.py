"""The table of all methods, a row each: scores over seeds, paired differences, and what each costs."""

from mixalign.reporting.rounds import Table
from mixalign.reporting.statistics import Paired, Score
from mixalign.reporting.table import TITLES, Comparison, Row, extra_steps, signed

__all__ = ["FOREST", "methods_table"]

FOREST = (
    "Method minus baseline within each seed: the mean, and its 95 % interval by Student's t. Where the line reaches "
    "zero the point is hollow, and the seeds do not tell the two apart. Grey: static mixtures, blue: adaptive methods, "
    "orange: merges. A triangle at the edge is a method far beyond the others."
)
COSTS = (
    "Every method trains the model that is judged for the same number of steps; what it spends beside them is its "
    "cost. Steps are optimizer steps beyond those, specialists counted in full for every method that reads them. Time "
    "is that of all these trainings, with validations, measurements of the method and scoring of training rows, as a "
    "multiple of plain training{plain} on the same seed; in brackets seconds, of the CPU where it trains, else by the "
    "clock. Memory is the peak above what was held before a training, in MiB, and in brackets the difference to plain "
    "training."
)


def methods_table(comparison: Comparison) -> Table:
    """One row a label, best first. Columns on cost are there when some run says what it cost."""
    scores = [comparison.metric, "mean_loss", "mean_accuracy"]
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
    caption = (
        f"Mean \u00b1 standard error over seeds, sorted by {TITLES[comparison.metric]}; (-) marks a single seed. "
        "Differences are taken within each seed, with the 95 % interval of their mean (Student's t) in brackets. "
    )
    plain = f" ({comparison.plain})" if comparison.plain else ""
    return Table(titles, rows, caption + (COSTS.format(plain=plain) if priced else ""))


def _difference(pair: Paired | None) -> str:
    if pair is None or not pair.n:
        return "-"
    return f"{pair.mean:+.3f} {pair.interval}" if pair.n > 1 else signed(pair)


def _costs(row: Row) -> list[str]:
    """Extra steps and what for, time, memory; dashes where the runs do not say."""
    bill = row.spent
    if bill is None:
        return ["-", "-", "-"]
    steps, parts = extra_steps(bill)
    times = f"{bill.times.mean:.2f}\u00d7" if bill.times.n else "-"
    more = f" ({bill.more_memory.mean:+.0f}{_error(bill.more_memory)})" if bill.more_memory.n else ""
    return [
        f"{steps} ({parts})" if parts else steps,
        f"{times} ({bill.time.mean:.0f} s)" if bill.time.n else "-",
        f"{bill.memory.mean:.0f}{more}" if bill.memory.n else "-",
    ]


def _error(score: Score) -> str:
    return f" \u00b1 {score.error:.0f}" if score.n > 1 else ""

"""Mixers side by side: means over seeds, paired differences to baselines, costs, and what may be said of them.

Losses, excess and gap are in nats and lower is better; accuracies lie in [0, 1] and higher is better.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixalign.errors import MixalignError, did_you_mean
from mixalign.reporting.cost import Spent, spent
from mixalign.reporting.runs import Run, differing_keys, setting
from mixalign.reporting.statistics import Paired, Score
from mixalign.reporting.verdicts import STATIC_MIXERS, Verdict, judge, kind_of, statements

__all__ = ["STATIC_MIXERS", "TITLES", "Comparison", "Row", "compare", "extra_steps", "paired", "signed"]

BASELINES = ("proportional", "uniform")
TITLES = {
    "worst_excess": "worst excess",
    "worst_gap": "worst gap",
    "worst_loss": "worst loss",
    "worst_accuracy": "worst accuracy",
    "mean_loss": "mean loss",
    "mean_accuracy": "mean accuracy",
}
RULE = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


@dataclass(frozen=True)
class Row:
    """One label.

    Attributes:
        method: `static`, `adaptive` or `merge`.
        differences: to every other baseline, by its label and then by score.
        spent: what its runs cost; None where they do not say.
    """

    label: str
    mixer: str
    method: str
    seeds: tuple[int, ...]
    scores: dict[str, Score]
    differences: dict[str, dict[str, Paired]]
    spent: Spent | None = None


@dataclass(frozen=True)
class Comparison:
    """The table.

    Attributes:
        metric: what rows are ranked by. `judged`: the scores that verdicts are about, that one first.
        columns: the scores shown.
        baseline: the one that was asked for. `baselines`: it, and the usual two where there are any.
        plain: the label whose training the costs are compared with; None when there is none.
    """

    metric: str
    judged: tuple[str, ...]
    columns: tuple[str, ...]
    baseline: str
    baselines: tuple[str, ...]
    plain: str | None
    rows: list[Row]
    verdicts: list[Verdict]
    notes: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def statements(self) -> list[tuple[str, str]]:
        """The verdicts in words: a kind, as of a verdict or "summary", and a sentence each."""
        told = []
        static = [row for row in self.rows if row.method == "static"]
        for metric in self.judged:
            verdicts = [v for v in self.verdicts if v.metric == metric]
            if verdicts:
                best = min(static, key=lambda row: _known(row.scores[metric].mean))
                if metric != self.metric:  # the others are in the table
                    verdicts = [v for v in verdicts if v.other == best.label and v.kind != "too few"]
                told += statements(verdicts, best.label, str(best.scores[metric]), TITLES[metric], self.baselines[:2])
        return told

    def sentences(self) -> list[str]:
        return [text for _, text in self.statements()]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`; null where a number is missing."""
        return _without_nan(asdict(self))

    def to_text(self, width: int = 100) -> str:
        """Tables and sentences for a terminal of this many columns, ASCII only."""
        console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False, markup=False)
        console.print(self._scores())
        console.print("  mean +- standard error over seeds; (-) marks a single seed; nats; accuracy in [0, 1]")
        if any(row.differences for row in self.rows):
            console.print()
            console.print(self._differences())
            console.print(f"  paired by seed: mean difference in {TITLES[self.metric]}, 95 % t interval, seeds better")
        if any(row.spent for row in self.rows):
            console.print()
            console.print(self._costs())
            console.print("  with all that a method needs beside its own training; CPU seconds, on a GPU by the clock")
        lines = [*self.sentences(), *(f"Note: {note}" for note in self.notes)]
        lines += [f"Skipped {path}: {reason}" for path, reason in self.skipped]
        for line in ["", *lines] if lines else []:
            console.print(Text(line))
        return console.file.getvalue()  # type: ignore[attr-defined]

    def _scores(self) -> Table:
        table = _table("mixer", "seeds", *(TITLES[name].replace(" ", "\n") for name in self.columns))
        for row in self.rows:
            cells = [str(row.scores[name]) for name in self.columns]
            table.add_row(Text(row.label), str(len(row.seeds)), *cells)
        return table

    def _differences(self) -> Table:
        shown = self.baselines[:2]  # more do not fit beside each other
        table = _table("mixer", *(title for name in shown for title in (f"minus {name}", "better\nin")))
        for row in self.rows:
            if row.differences:
                pairs = [row.differences.get(name, {}).get(self.metric) for name in shown]
                table.add_row(Text(row.label), *(cell for pair in pairs for cell in _against(pair)))
        return table

    def _costs(self) -> Table:
        title = "times plain\ntraining" if self.plain is None else f"times\n{self.plain}"
        table = _table("mixer", "steps beyond\nplain training", "for", "seconds", title, "memory\nMiB")
        table.columns[2].justify = "left"
        for row in self.rows:
            if row.spent:
                steps, parts = extra_steps(row.spent)
                times = f"{row.spent.times.mean:.2f}" if row.spent.times.n else "-"
                figures = (f"{score.mean:.1f}" if score.n else "-" for score in (row.spent.time, row.spent.memory))
                seconds, memory = figures
                table.add_row(Text(row.label), steps, parts, seconds, times, memory)
        return table


def compare(runs: Sequence[Run], baseline: str | None = None) -> Comparison:
    """Group the runs over seeds by label and compare every label with the baseline and the static mixtures.

    Args:
        baseline: A label or a mixer's name; None takes proportional, else uniform, else the first label.

    Raises:
        MixalignError: No run has scores.
    """
    finished = [run for run in runs if not run.skipped]
    if not finished:
        reasons = "; ".join(f"{run.path}: {run.skipped}" for run in runs) or "no run was given"
        raise MixalignError(f"There is nothing to compare ({reasons}). Evaluate at least one run first.")
    groups = {label: [run for run in finished if run.label == label] for label in _labels(finished)}
    has_excess = any(not math.isnan(run.score("worst_excess")) for run in finished)
    metric = "worst_excess" if has_excess else "worst_loss"
    columns = (metric, *(["worst_gap"] if has_excess else []), "worst_accuracy", "mean_loss", "mean_accuracy")
    base, notes = _baseline(groups, baseline)
    usual = {name: label for name in BASELINES for label in reversed(groups) if groups[label][0].mixer == name}
    baselines = tuple(dict.fromkeys([base, *usual.values()]))
    plain = usual.get("uniform", usual.get("proportional"))
    costs = {label: {run.seed: run.cost for run in group if run.cost} for label, group in groups.items()}
    bills, against = spent(costs, plain), {name: groups[name] for name in baselines}
    rows = [replace(_row(label, group, against, columns), spent=bills.get(label)) for label, group in groups.items()]
    rows.sort(key=lambda row: _known(row.scores[metric].mean))
    judged = (metric, "mean_loss")
    return Comparison(
        metric,
        judged,
        columns,
        base,
        baselines,
        plain,
        rows,
        [verdict for name in judged for verdict in _verdicts(rows, groups, name)],
        notes + _notes(finished, columns, has_excess),
        [("/".join(run.path.parts[-2:]), run.skipped) for run in runs if run.skipped],
    )


def signed(pair: Paired) -> str:
    """`-0.146+-0.016`: the difference with its sign, and its standard error when there is one."""
    return "-" if not pair.n else f"{pair.mean:+.3f}+-{pair.error:.3f}" if pair.n > 1 else f"{pair.mean:+.3f} (-)"


def extra_steps(bill: Spent) -> tuple[str, str]:
    """`+1,200` and what they were for; `0` and nothing for plain training."""
    steps = round(bill.extra_steps.mean) if bill.extra_steps.n else None
    return "-" if steps is None else f"{steps:+,}" if steps else "0", ", ".join(bill.parts)


def paired(group: Sequence[Run], other: Sequence[Run], metric: str) -> Paired:
    """Differences `group - other` of one score over the seeds that both have."""
    mine, theirs = ({run.seed: run.score(metric) for run in runs} for runs in (group, other))
    seeds = [seed for seed in mine if seed in theirs]
    ours, others = ([scores[seed] for seed in seeds] for scores in (mine, theirs))
    return Paired.between(ours, others, lower_is_better=not metric.endswith("accuracy"))


def _labels(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.label for run in runs))


def _row(label: str, group: Sequence[Run], against: dict[str, list[Run]], columns: Sequence[str]) -> Row:
    scores = {name: Score.of([run.score(name) for run in group]) for name in columns}
    others = {other: base for other, base in against.items() if other != label}
    differences = {other: {name: paired(group, base, name) for name in columns} for other, base in others.items()}
    seeds = tuple(sorted(run.seed for run in group))
    return Row(label, group[0].mixer, kind_of(group[0].mixer), seeds, scores, differences)


def _baseline(groups: dict[str, list[Run]], wanted: str | None) -> tuple[str, list[str]]:
    """The baseline's label, and a note when it is not the one asked for."""
    for name in (wanted, "proportional", "uniform"):
        for label, group in groups.items():
            if name is not None and name in (label, group[0].mixer):
                return label, _baseline_note(groups, wanted, name, label)
    label = next(iter(groups))
    return label, _baseline_note(groups, wanted, None, label)


def _baseline_note(groups: dict[str, list[Run]], wanted: str | None, name: str | None, label: str) -> list[str]:
    if wanted is not None and name != wanted:
        return [f"No run has the baseline `{wanted}`; `{label}` is used. {did_you_mean(wanted, groups)}"]
    missing = f"There is no proportional or uniform run; the baseline is `{label}`, the first one found."
    return [missing] if name is None and len(groups) > 1 else []


def _verdicts(rows: Sequence[Row], groups: dict[str, list[Run]], metric: str) -> list[Verdict]:
    """One verdict by one score for every method that is not static against every static mixture."""
    methods = {row.label: row.method for row in rows if row.method != "static"}
    static = [row.label for row in rows if row.method == "static"]
    return [
        verdict
        for other in static
        for verdict in judge(
            {label: paired(groups[label], groups[other], metric) for label in methods}, other, metric, methods
        )
    ]


def _known(value: float) -> float:
    """For sorting: NaN comes last."""
    return math.inf if math.isnan(value) else value


def _against(pair: Paired | None) -> tuple[str, str]:
    if pair is None or not pair.n:
        return "-", "-"
    return (f"{pair.mean:+.3f} {pair.interval}" if pair.n > 1 else signed(pair)), f"{pair.wins}/{pair.n}"


def _notes(runs: Sequence[Run], columns: Sequence[str], has_excess: bool) -> list[str]:
    """What a reader must know before trusting the numbers."""
    notes = [] if has_excess else ["No run has specialist losses, so there is no excess: the worst loss is used."]
    for what, values in (("objectives", {r.objective for r in runs}), ("splits", {r.split for r in runs})):
        if len(values) > 1:
            names = ", ".join(sorted(map(str, values)))
            notes.append(f"The runs have different {what} ({names}): their numbers do not compare.")
    if len({frozenset(run.eval["tasks"]) for run in runs}) > 1:
        notes.append("The runs were not evaluated on the same tasks: worst and mean do not compare.")
    for run in runs:
        lost = [TITLES[name] for name in columns if math.isnan(run.score(name))]
        if lost:
            notes.append(f"{run.label} seed {run.seed} has no {', '.join(lost)}; it is left out there.")
    return notes + _unequal_settings(runs)


def _unequal_settings(runs: Sequence[Run]) -> list[str]:
    """A note on numbers outside the mixer that differ, such as the steps: more than the mixer is compared."""
    differ = []
    for key in differing_keys(runs):
        values = {setting(run, key) for run in runs if not isinstance(setting(run, key), list)}
        if not key.startswith("mixer.") and values and all(isinstance(value, int | float) for value in values):
            differ.append(f"{key} ({', '.join(f'{value:g}' for value in sorted(values))})")
    return [f"The runs differ in more than the mixer: {', '.join(differ)}."] if differ else []


def _table(*titles: str) -> Table:
    table = Table(box=RULE, show_edge=False, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column(Text(titles[0]), overflow="fold", vertical="bottom")
    for title in titles[1:]:
        table.add_column(Text(title), justify="right", no_wrap=True)
    return table


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value

"""Mixers side by side: means over seeds, paired differences to a baseline, and what may be said of them.

Losses, excess and gap are in nats and lower is better; accuracies lie in [0, 1] and higher is better.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixalign.errors import MixalignError, did_you_mean
from mixalign.reporting.runs import Run, differing_keys, setting

__all__ = ["STATIC_MIXERS", "TITLES", "Comparison", "Paired", "Row", "Score", "Verdict", "compare", "signed"]

STATIC_MIXERS = ("proportional", "uniform", "temperature", "schedule")
MIN_SEEDS = 3  # fewer shared seeds give a standard error that nothing should rest on
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
class Score:
    """A mean over `n` seeds and its standard error; NaN where there is none."""

    mean: float
    error: float
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> "Score":
        """Mean and sd(ddof=1) / sqrt(n) of the values that are not NaN."""
        known = [value for value in values if not math.isnan(value)]
        error = float(np.std(known, ddof=1)) / math.sqrt(len(known)) if len(known) > 1 else math.nan
        return Score(float(np.mean(known)) if known else math.nan, error, len(known))

    def __str__(self) -> str:
        if not self.n:
            return "-"
        return f"{self.mean:.3f}+-{self.error:.3f}" if self.n > 1 else f"{self.mean:.3f} (-)"


@dataclass(frozen=True)
class Paired(Score):
    """This mixer minus the other, seed by seed; `wins` counts the seeds where this one is better."""

    wins: int


@dataclass(frozen=True)
class Row:
    """One label: its scores by name, and its differences to the baseline by name (none for the baseline)."""

    label: str
    mixer: str
    seeds: tuple[int, ...]
    scores: dict[str, Score]
    differences: dict[str, Paired]


@dataclass(frozen=True)
class Verdict:
    """What the shared seeds say of one mixer against one static mixture.

    Attributes:
        kind: "better", "no better", "worse", or "too few" (seeds to tell).
        n: Seeds that both have.
    """

    label: str
    other: str
    kind: str
    n: int
    text: str


@dataclass(frozen=True)
class Comparison:
    """The table; `metric` is what rows are ranked and judged by, `columns` the scores shown."""

    metric: str
    columns: tuple[str, ...]
    baseline: str
    rows: list[Row]
    verdicts: list[Verdict]
    notes: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def sentences(self) -> list[str]:
        """The verdicts in words; those that too few seeds forbid are put together in one sentence."""
        pairs: dict[str, list[str]] = {}
        for verdict in self.verdicts:
            if verdict.kind == "too few":
                pairs.setdefault(verdict.label, []).append(f"{verdict.other} ({verdict.n} shared)")
        unclear = "; ".join(f"{label} against {', '.join(others)}" for label, others in pairs.items())
        told = [verdict.text for verdict in self.verdicts if verdict.kind != "too few"]
        return told + ([f"Too few seeds to tell, {MIN_SEEDS} shared are wanted: {unclear}."] if unclear else [])

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
        table = _table(f"minus {self.baseline}", "shared\nseeds", f"{TITLES[self.metric]}\ndifference", "better in")
        for row in self.rows:
            if pair := row.differences.get(self.metric):
                wins = f"{pair.wins}/{pair.n}" if pair.n else "-"
                table.add_row(Text(row.label), str(pair.n), signed(pair), wins)
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
    rows = [_row(label, group, groups[base], columns) for label, group in groups.items()]
    rows.sort(key=lambda row: (math.isnan(row.scores[metric].mean), row.scores[metric].mean))
    return Comparison(
        metric,
        columns,
        base,
        rows,
        _verdicts({row.label: groups[row.label] for row in rows}, metric),
        notes + _notes(finished, columns, has_excess),
        [("/".join(run.path.parts[-2:]), run.skipped) for run in runs if run.skipped],
    )


def signed(pair: Paired) -> str:
    """`-0.146+-0.016`: the difference with its sign, and its standard error when there is one."""
    return "-" if not pair.n else f"{pair.mean:+.3f}+-{pair.error:.3f}" if pair.n > 1 else f"{pair.mean:+.3f} (-)"


def paired(group: Sequence[Run], other: Sequence[Run], metric: str) -> Paired:
    """Differences `group - other` of one score over the seeds that both have."""
    mine, theirs = ({run.seed: run.score(metric) for run in runs} for runs in (group, other))
    differences = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    score = Score.of(differences)
    sign = 1.0 if metric.endswith("accuracy") else -1.0
    return Paired(score.mean, score.error, score.n, wins=sum(sign * value > 0 for value in differences))


def _labels(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.label for run in runs))


def _row(label: str, group: Sequence[Run], base: Sequence[Run], columns: Sequence[str]) -> Row:
    scores = {name: Score.of([run.score(name) for run in group]) for name in columns}
    differences = {} if label == base[0].label else {name: paired(group, base, name) for name in columns}
    return Row(label, group[0].mixer, tuple(sorted(run.seed for run in group)), scores, differences)


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


def _verdicts(groups: dict[str, list[Run]], metric: str) -> list[Verdict]:
    """One verdict for every adaptive label against every static one."""
    static = {label: group for label, group in groups.items() if group[0].mixer in STATIC_MIXERS}
    return [
        _verdict(label, other, paired(group, static[other], metric), TITLES[metric])
        for label, group in groups.items()
        for other in static
        if label not in static
    ]


def _verdict(label: str, other: str, pair: Paired, title: str) -> Verdict:
    if pair.n < MIN_SEEDS:
        text = f"{label} against {other}: too few seeds to tell ({pair.n} shared, {MIN_SEEDS} wanted)."
        return Verdict(label, other, "too few", pair.n, text)
    numbers = f"paired difference {pair.mean:+.3f} +- {pair.error:.3f} nats, better in {pair.wins}/{pair.n} seeds"
    if pair.mean + 2 * pair.error < 0:
        return Verdict(label, other, "better", pair.n, f"{label} beats {other} on {title}: {numbers}.")
    if pair.mean - 2 * pair.error > 0:
        return Verdict(label, other, "worse", pair.n, f"{label} is worse than {other} on {title}: {numbers}.")
    text = f"{label} does not beat {other} on {title}: {numbers}; two standard errors reach zero."
    return Verdict(label, other, "no better", pair.n, text)


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

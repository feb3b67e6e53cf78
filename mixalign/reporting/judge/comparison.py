"""Mixers side by side: means over seeds, paired differences to baselines, costs, and what may be said of them.

Losses, excess and gap are in nats and lower is better; accuracies lie in [0, 1] and higher is better.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mixalign.errors import MixalignError, did_you_mean
from mixalign.final_rows import accuracy_means
from mixalign.reporting.judge.costs import Spent, spent
from mixalign.reporting.judge.notes import notes_on
from mixalign.reporting.judge.same_specialists import different_specialists
from mixalign.reporting.judge.statistics import Paired, Score
from mixalign.reporting.judge.verdicts import Statement, Verdict, judge, statements
from mixalign.reporting.read.runs import Run

__all__ = ["TITLES", "Comparison", "Row", "compare", "paired"]

BASELINES = ("proportional", "uniform")
TITLES = {
    "worst_excess": "worst excess",
    "worst_gap": "worst gap",
    "worst_loss": "worst loss",
    "worst_accuracy": "worst accuracy",
    "mean_loss": "mean loss",
    "mean_accuracy": "mean accuracy",
    "worst_score": "worst score",
    "mean_score": "mean score",
}
SCORES = ("worst_score", "mean_score")  # of generated answers, where there are some
Groups = Mapping[str, list[Run]]


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
    """All labels, best first, and the verdicts on them.

    Attributes:
        metric: what rows are ranked by: the worst excess, where the runs of a seed have it over the same specialists.
            `verdict_metrics`: the scores that verdicts are about, that one first.
        columns: the scores shown.
        baseline: the one that was asked for. `baselines`: it, and the usual two where there are any.
        plain: the label whose training the costs are compared with; None when there is none.
        accuracy: what it is the share of.
    """

    metric: str
    verdict_metrics: tuple[str, ...]
    columns: tuple[str, ...]
    baseline: str
    baselines: tuple[str, ...]
    plain: str | None
    rows: list[Row]
    verdicts: list[Verdict]
    notes: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    accuracy: str = ""

    def statements(self) -> list[Statement]:
        """The verdicts in words: a kind, as of a verdict or "summary", and a sentence each."""
        sentences: list[Statement] = []
        static = [row for row in self.rows if row.method == "static"]
        for metric in self.verdict_metrics:
            verdicts = [v for v in self.verdicts if v.metric == metric]
            if verdicts:
                best = min(static, key=lambda row: _nan_last(row.scores[metric].mean))
                if metric != self.metric:  # the others are in the table
                    verdicts = [v for v in verdicts if v.other == best.label and v.kind != "too few"]
                mean = str(best.scores[metric])
                sentences += statements(verdicts, best.label, mean, TITLES[metric], self.baselines[:2])
        return sentences

    def sentences(self) -> list[str]:
        """The verdicts in words."""
        return [text for _, text in self.statements()]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`; null where a number is missing."""
        data = {"judged" if key == "verdict_metrics" else key: value for key, value in asdict(self).items()}
        plain: dict[str, Any] = _without_nan(data)  # "judged": as in the files that were written before
        return plain


def compare(runs: Sequence[Run], baseline: str | None = None) -> Comparison:
    """Group the runs over seeds by label and compare every label with the baseline and the static mixtures.

    Args:
        runs: As `find_runs` labels them.
        baseline: A label or a mixer's name; None takes proportional, else uniform, else the first label.

    Raises:
        MixalignError: No run has scores.
    """
    finished = [run for run in runs if not run.skipped]
    if not finished:
        reasons = "; ".join(f"{run.path}: {run.skipped}" for run in runs) or "no run was given"
        raise MixalignError(f"There is nothing to compare ({reasons}). Evaluate at least one run first.")
    groups: dict[str, list[Run]] = {}
    for run in finished:
        groups.setdefault(run.label, []).append(run)
    has_excess = any(not math.isnan(run.score("worst_excess")) for run in finished)
    differing = different_specialists(finished)
    has_excess = has_excess and not differing
    metric = "worst_excess" if has_excess else "worst_loss"
    columns = (metric, *(["worst_gap"] if has_excess else []), "worst_accuracy", "mean_loss", "mean_accuracy")
    columns += SCORES if any(not math.isnan(run.score("mean_score")) for run in finished) else ()
    base, notes = _baseline(groups, baseline)
    usual = {name: label for name in BASELINES for label in reversed(groups) if groups[label][0].mixer == name}
    baselines = tuple(dict.fromkeys([base, *usual.values()]))
    plain = usual.get("uniform", usual.get("proportional"))
    rows = _rows(groups, baselines, plain, columns)
    rows.sort(key=lambda row: _nan_last(row.scores[metric].mean))
    verdict_metrics = (metric, "mean_loss")
    return Comparison(
        metric,
        verdict_metrics,
        columns,
        base,
        baselines,
        plain,
        rows,
        [verdict for name in verdict_metrics for verdict in _verdicts(rows, groups, name)],
        notes + notes_on(finished, {name: TITLES[name] for name in columns}, differing),
        [("/".join(run.path.parts[-2:]), run.skipped) for run in runs if run.skipped],
        "; ".join(dict.fromkeys(accuracy_means(run.eval) for run in finished)),
    )


def paired(group: Sequence[Run], other: Sequence[Run], metric: str) -> Paired:
    """Differences `group - other` of one score over the seeds that both have."""
    mine, theirs = ({run.seed: run.score(metric) for run in runs} for runs in (group, other))
    seeds = [seed for seed in mine if seed in theirs]
    ours, others = ([scores[seed] for seed in seeds] for scores in (mine, theirs))
    return Paired.between(ours, others, lower_is_better=not metric.endswith(("accuracy", "score")))


def _rows(groups: Groups, baselines: Sequence[str], plain: str | None, columns: Sequence[str]) -> list[Row]:
    """One row a label, in the order of the groups, with what it cost."""
    costs = {label: {run.seed: run.cost for run in group if run.cost} for label, group in groups.items()}
    bills = spent(costs, plain)
    against = {name: groups[name] for name in baselines}
    return [replace(_row(label, group, against, columns), spent=bills.get(label)) for label, group in groups.items()]


def _row(label: str, group: Sequence[Run], against: Groups, columns: Sequence[str]) -> Row:
    scores = {name: Score.of([run.score(name) for run in group]) for name in columns}
    others = {other: base for other, base in against.items() if other != label}
    differences = {other: {name: paired(group, base, name) for name in columns} for other, base in others.items()}
    seeds = tuple(sorted(run.seed for run in group))
    methods = {run.method for run in group}
    method = methods.pop() if len(methods) == 1 else "adaptive"  # a mixture that moved in some of the runs
    return Row(label, group[0].mixer, method, seeds, scores, differences)


def _baseline(groups: Groups, wanted: str | None) -> tuple[str, list[str]]:
    """The baseline's label, and a note when it is not the one asked for."""
    for name in (wanted, *BASELINES):
        for label, group in groups.items():
            if name is not None and name in (label, group[0].mixer):
                return label, _baseline_note(groups, wanted, name, label)
    label = next(iter(groups))
    return label, _baseline_note(groups, wanted, None, label)


def _baseline_note(groups: Groups, wanted: str | None, name: str | None, label: str) -> list[str]:
    if wanted is not None and name != wanted:
        return [f"No run has the baseline `{wanted}`; `{label}` is used. {did_you_mean(wanted, groups)}"]
    missing = f"There is no proportional or uniform run; the baseline is `{label}`, the first one found."
    return [missing] if name is None and len(groups) > 1 else []


def _verdicts(rows: Sequence[Row], groups: Groups, metric: str) -> list[Verdict]:
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


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value

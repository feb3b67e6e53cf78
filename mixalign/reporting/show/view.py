"""What the page's template is given: plain text in tables and sentences, and figures; the template does the HTML."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mixalign.errors import MixalignError
from mixalign.reporting.judge.advice import Advice, advise
from mixalign.reporting.judge.comparison import Comparison, compare
from mixalign.reporting.judge.rounds import histories
from mixalign.reporting.judge.verdicts import Statement
from mixalign.reporting.read.runs import Run
from mixalign.reporting.read.trials import Search, ended_by_search
from mixalign.reporting.show import rounds
from mixalign.reporting.show.figures.ends import cost_figure, dumbbell_figure, forest_figures, pareto_figure
from mixalign.reporting.show.figures.paths import excess_figure, rows_figure, weights_figure, worst_figure
from mixalign.reporting.show.figures.rounds import change_figure, loss_figure, volume_figure
from mixalign.reporting.show.figures.spec import Figure
from mixalign.reporting.show.figures.trials import slice_figures
from mixalign.reporting.show.further import further_table, harness_table
from mixalign.reporting.show.generations import TaskSamples, generation_scores, shown_samples
from mixalign.reporting.show.over_time import without_curves
from mixalign.reporting.show.plots.tasks import shown_tasks
from mixalign.reporting.show.shown_run import ShownRun, shown_run
from mixalign.reporting.show.shown_table import ShownTable
from mixalign.reporting.show.tables import methods_table, tasks_table
from mixalign.reporting.show.trials import failures, sentences, trials_table
from mixalign.terminal import counted

__all__ = ["Group", "Page", "page_of"]

TRIALS = 15  # of a search, before the reader opens the rest


@dataclass(frozen=True)
class ShownRounds:
    """What is shown of runs that were made in rounds."""

    sentences: Sequence[str]
    figures: Sequence[Figure]
    tables: Sequence[ShownTable]


@dataclass(frozen=True)
class ShownGenerations:
    """What models generated: scores by task where there are some, and answers side by side."""

    scores: ShownTable | None
    samples: Sequence[TaskSamples]


@dataclass(frozen=True)
class Group:
    """Runs that can be compared, in the order of the page.

    Attributes:
        alone: Whether it is one run, which is compared with nothing.
        labels: What the reader may choose among, best first.
        opens: The one that is shown first where there is room for one run: the best whose mixture moves, if any.
        facts: What was compared: terms and what is said of them.
        remarks: What is said where a run has too little for a curve.
        further: Results on further rows and tasks.
        accuracy: What it is the share of.
    """

    title: str
    alone: bool
    labels: Sequence[str]
    opens: str
    advice: Advice
    notes: Sequence[str]
    statements: Sequence[Statement]
    facts: Mapping[str, str]
    over_time: Sequence[Figure]
    remarks: Sequence[str]
    tasks: Sequence[Figure]
    costs: Sequence[Figure]
    forests: Sequence[Figure]
    methods: ShownTable
    by_task: ShownTable
    further: Sequence[ShownTable]
    generations: ShownGenerations | None
    rounds: ShownRounds | None
    runs: Sequence[ShownRun]
    accuracy: str


@dataclass(frozen=True)
class ShownSearch:
    """What is shown of a search: sentences, figures, the trials, and why some failed.

    Attributes:
        more: trials behind the first ones, which the reader opens.
    """

    title: str
    sentences: Sequence[str]
    figures: Sequence[Figure]
    table: ShownTable
    more: ShownTable | None
    failures: Sequence[str]


@dataclass(frozen=True)
class Page:
    """All that the template shows.

    Attributes:
        searches: What was tried, of runs that a search made.
        skipped: Runs that are left out, and why.
    """

    title: str
    groups: Sequence[Group]
    searches: Sequence[ShownSearch]
    skipped: Sequence[tuple[str, str]]

    @property
    def accuracies(self) -> list[str]:
        """What accuracy is the share of, in each of the groups."""
        return list(dict.fromkeys(group.accuracy for group in self.groups))

    @property
    def scored(self) -> bool:
        """Whether some group has scores of generated answers."""
        return any(group.generations and group.generations.scores for group in self.groups)


def page_of(runs: Sequence[Run], baseline: str | None = None, searches: Sequence[Search] = ()) -> Page:
    """The view of these runs, a group for each kind that can be compared, with all figures.

    Args:
        baseline: As in `compare`; groups without it are compared with their usual one.
        searches: Those that made some of the runs.

    Raises:
        MixalignError: No run has scores.
    """
    runs = ended_by_search(runs, searches)
    finished = [run for run in runs if not run.skipped]
    if not finished:
        compare(runs)  # says why
        raise MixalignError("There is nothing to compare.")
    kinds = dict.fromkeys(run.group for run in finished)
    groups = [_group(title, [run for run in finished if run.group == title], baseline) for title in kinds]
    skipped = [("/".join(run.path.parts[-2:]), run.skipped) for run in runs if run.skipped]
    first = finished[0]
    title = "Mixtures compared" if len(finished) > 1 else f"{first.label}, seed {first.seed}"
    return Page(title, groups, [_search(one) for one in searches], skipped)


def _search(search: Search) -> ShownSearch:
    table = trials_table(search)
    best = str(search.best.number) if search.best else ""
    first = ShownTable.of(table._replace(rows=table.rows[:TRIALS]), best)
    rest = ShownTable.of(table._replace(rows=table.rows[TRIALS:], caption="")) if table.rows[TRIALS:] else None
    place = "/".join(search.folder.parts[-2:])
    return ShownSearch(place, sentences(search), slice_figures(search), first, rest, failures(search))


def _group(title: str, runs: Sequence[Run], baseline: str | None) -> Group:
    comparison = compare(runs, baseline)
    if comparison.metric == "worst_loss":  # excess over several sets of specialists compares nowhere on the page
        runs = [run.without_excess() for run in runs]
    by_label = {row.label: [run for run in runs if run.label == row.label] for row in comparison.rows}
    over_time = [weights_figure(by_label), worst_figure(by_label, comparison.metric), excess_figure(by_label)]
    return Group(
        title,
        alone=len(runs) == 1,
        labels=list(by_label),
        opens=next((label for label, found in by_label.items() if found[0].method == "adaptive"), next(iter(by_label))),
        advice=advise(comparison, runs),
        notes=comparison.notes,
        statements=comparison.statements(),
        facts=_facts(runs, comparison),
        over_time=_there([*over_time, rows_figure(by_label)]),
        remarks=without_curves(by_label),
        tasks=_there([dumbbell_figure(by_label)]),
        costs=_there([cost_figure(comparison), pareto_figure(comparison)]),
        forests=forest_figures(comparison),
        methods=ShownTable.of(methods_table(comparison), comparison.baseline if len(by_label) > 1 else ""),
        by_task=ShownTable.of(tasks_table(comparison, runs)),
        further=[ShownTable.of(table) for table in (further_table(runs), harness_table(runs)) if table],
        generations=_generations(runs),
        rounds=_rounds(runs, comparison),
        runs=[shown_run(run) for run in runs],
        accuracy=comparison.accuracy,
    )


def _there(figures: Iterable[Figure | None]) -> list[Figure]:
    return [figure for figure in figures if figure is not None]


def _facts(runs: Sequence[Run], comparison: Comparison) -> dict[str, str]:
    rows = {task: row.get("rows", "?") for run in runs for task, row in run.eval["tasks"].items()}
    facts = {
        "Compared": f"{counted(len(runs), 'run')}, {counted(len(comparison.rows), 'method')}",
        "Objective": _listed(run.objective for run in runs),
        "Seeds": _listed(sorted({run.seed for run in runs})),
        "Split": _listed(run.split for run in runs),
        "Steps": _listed(run.mixture.get("steps", run.config.get("steps")) for run in runs),
        "Baseline": comparison.baseline,
        "Evaluated rows": ", ".join(f"{task} {count}" for task, count in rows.items()),
    }
    if len(runs) == 1:
        facts = {key: text for key, text in facts.items() if key not in ("Compared", "Baseline")}
    return facts


def _listed(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value not in ("", None))) or "not recorded"


def _generations(runs: Sequence[Run]) -> ShownGenerations | None:
    samples, scores = shown_samples(runs), generation_scores(runs)
    if not samples and scores is None:
        return None
    return ShownGenerations(ShownTable.of(scores) if scores else None, samples)


def _rounds(runs: Sequence[Run], comparison: Comparison) -> ShownRounds | None:
    groups = histories(runs)
    if not groups:
        return None
    tables = [ShownTable.of(table) for table in (rounds.settings_table(groups), rounds.tasks_table(groups))]
    tasks = shown_tasks(runs)
    order = [row.label for row in comparison.rows]
    figures = [loss_figure(groups, order), volume_figure(groups, tasks), change_figure(groups, tasks)]
    if rounds.has_one(groups):
        figures = []
    return ShownRounds(rounds.sentences(groups), _there(figures), tables)

"""One HTML file that holds a whole comparison: tables, sentences, pictures. It asks no other address."""

import base64
import io
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixalign.errors import MixalignError
from mixalign.reporting import plots, rounds
from mixalign.reporting.comparison import FOREST, methods_table
from mixalign.reporting.forest import forest
from mixalign.reporting.runs import Run, number
from mixalign.reporting.statistics import Score
from mixalign.reporting.table import TITLES, Comparison, compare, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_report"]

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --muted: #62666d; --paper: #fff; --line: #dcdfe4;
  --soft: #f4f6f8; --good: #00664b; --bad: #a83a00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ea; --muted: #a3a8b0; --paper: #17181b;
  --line: #393c42; --soft: #212327; --good: #4fd0a8; --bad: #ff9c66 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans",
  "DejaVu Sans", sans-serif }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem }
p, li, dd, figcaption { max-width: 46rem; overflow-wrap: anywhere }
.muted, figcaption { color: var(--muted); font-size: .9rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th { font-weight: 600; color: var(--muted); vertical-align: bottom; white-space: normal }
td:first-child, th:first-child { text-align: left; padding-left: .3rem }
td small { color: var(--muted) }
.methods td small { display: block }
tr.base td { background: var(--soft) }
figure { margin: 1.2rem 0 2rem }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px }
figcaption { margin-top: .5rem }
ul.verdicts { list-style: none; padding: 0 }
ul.verdicts li { margin: .4rem 0; padding-left: .8rem; border-left: 4px solid var(--line) }
ul.verdicts li.better { border-color: var(--good) }
ul.verdicts li.worse { border-color: var(--bad) }
details { margin: .4rem 0; border-bottom: 1px solid var(--line); padding-bottom: .4rem }
summary { cursor: pointer }
dt { font-weight: 600 }
dd { margin: 0 0 .6rem }
@media (max-width: 40rem) { body { font-size: 15px } th, td { padding: .3rem .5rem }
  figure img { max-width: none; width: 42rem } }
"""
DEFINITIONS = (
    (
        "Excess",
        "How much worse a sample's loss is than the loss of its task's specialist, a model trained on that "
        "task alone: max(loss - specialist loss, 0), averaged over the task's samples, in nats. It is zero "
        "only where the specialist is matched on every sample, so a noisy task keeps a little excess even "
        "when its gap is zero.",
    ),
    (
        "Gap",
        "The same difference without the clipping: mean loss - mean specialist loss, in nats. Below zero the "
        "mixed model is better than the specialist.",
    ),
    ("Worst", "The value of the task where it is worst. AMA-S and AMA-R aim at the worst excess."),
    ("Standard error", "sd / sqrt(n) over n seeds, with n - 1 in the sd. One seed has none."),
    (
        "Paired difference",
        "Mixer minus baseline within each seed, then the mean over the seeds that both have. A mixer is said "
        "to beat another when the 95 % interval of the difference leaves zero out, on three shared seeds or more. "
        "The interval is the mean \u00b1 t standard errors, with Student's t for n - 1 degrees of freedom: 4.30 for "
        "three seeds, 2.78 for five.",
    ),
)
CAPTIONS = {
    "headline": "Left the mixture of the best adaptive mixer, right its worst task beside the baseline's.",
    "worst": "The task with the largest final value decides. A point is a seed, a bar the mean with one "
    "standard error; static mixtures are grey.",
    "mixture": "The height of a band is the share of a task: its weight in the loss where the mixer weighs "
    "losses, else how often it is drawn.",
    "excess": "One line a task, mean over seeds. The task that ends worst is named.",
    "tasks": "Mean over seeds. A task that is dark under every mixer is hard; one that is dark under a few of them is "
    "neglected there.",
}
PREFERENCE = "The share of pairs whose margin is above zero: the objective ranks the chosen answer first."
TOKENS = "The share of answer tokens that the model ranks first."


def write_report(runs: Sequence[Run], path: str | Path, baseline: str | None = None) -> Path:
    """Write the comparison of these runs as one self-contained HTML file, and return its path.

    Args:
        path: The file to write; its folder is made when it is missing.
        baseline: As in `compare`.

    Raises:
        MixalignError: No run has scores.
    """
    comparison = compare(runs, baseline)
    finished = [run for run in runs if not run.skipped]
    body = "".join(
        (
            _summary(finished, comparison),
            _section("Comparison", _comparison(comparison)),
            _section("Scores", _scores(comparison) + _differences(comparison)),
            _section("Pictures", _pictures(finished, comparison)),
            _rounds(finished),
            _section("Every run", "".join(_details(run) for run in finished)),
            _section("Skipped runs", _skipped(comparison)) if comparison.skipped else "",
            _section("What the words mean", _definitions(finished)),
        )
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page("Mixtures compared", body), encoding="utf-8")
    return path


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"\n<section><h2>{escape(title)}</h2>{body}</section>"


def _paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def _table(titles: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], kind: str = "") -> str:
    """A table of a kind from a kind and the cells of each row; cells are HTML already, titles are not."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    lines = "".join(f'<tr class="{kind}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for kind, cells in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in dict.fromkeys(values) if value not in ("", None)) or "not recorded"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _summary(runs: Sequence[Run], comparison: Comparison) -> str:
    """The heading, what was compared, and the best label in one sentence."""
    best = comparison.rows[0]
    size = f"{_plural(len(runs), 'run')}, {_plural(len(comparison.rows), 'method')}"
    facts = (
        f"{size}. Objective: {_listed(run.objective for run in runs)}. "
        f"Seeds: {_listed(sorted({run.seed for run in runs}))}. Split: {_listed(run.split for run in runs)}. "
        f"Steps: {_listed(_steps(run) for run in runs)}. Baseline: {comparison.baseline}."
    )
    title = TITLES[comparison.metric]
    sentence = f"Lowest {title}: {best.label}, {_plain(best.scores[comparison.metric])} nats."
    rows = _rows_per_task(runs)
    tasks = f"Tasks and evaluated rows: {', '.join(f'{task} {count}' for task, count in rows.items())}."
    notes = "".join(_paragraph(f"Note: {note}") for note in comparison.notes)
    return f"<h1>Mixtures compared</h1>{_paragraph(sentence)}{notes}{_paragraph(facts, 'muted')}" + _paragraph(
        tasks, "muted"
    )


def _steps(run: Run) -> Any:
    return run.mixture.get("steps", run.config.get("steps"))


def _rows_per_task(runs: Sequence[Run]) -> dict[str, Any]:
    return {task: row.get("rows", "?") for run in runs for task, row in run.eval["tasks"].items()}


def _plain(score: Score) -> str:
    if score.n < 2:
        return "-" if not score.n else f"{score.mean:.3f} (one seed)"
    return f"{score.mean:.3f} \u00b1 {score.error:.3f}"


def _cell(text: str) -> str:
    """`0.1+-0.2` with a plus-minus sign; the error, or what stands in brackets, small."""
    mean, mark, error = escape(text).partition("+-")
    if mark:
        return f"{mean} <small>&plusmn; {error}</small>"
    for bracket in ("[", "("):
        main, mark, rest = mean.partition(f" {bracket}")
        if mark:
            return f"{main} <small>{bracket}{rest}</small>"
    return mean


def _comparison(comparison: Comparison) -> str:
    """What the seeds say in words, the table of all methods, and the differences as pictures."""
    table = methods_table(comparison)
    rows = (
        ("base" if row[0] == comparison.baseline else "", [escape(row[0]), *map(_cell, row[1:])]) for row in table.rows
    )
    body = _verdicts(comparison) + _table(table.titles, rows, "methods") + _paragraph(table.caption, "muted")
    if any(pair.n > 1 for row in comparison.rows for pairs in row.differences.values() for pair in pairs.values()):
        for metric in comparison.judged:
            body += _figure(partial(forest, comparison, metric), FOREST)
    return body


def _scores(comparison: Comparison) -> str:
    rows = [
        (
            "base" if row.label == comparison.baseline else "",
            [
                escape(row.label),
                str(len(row.seeds)),
                *(_cell(str(row.scores[name])) for name in comparison.columns),
            ],
        )
        for row in comparison.rows
    ]
    caption = (
        f"Mean \u00b1 standard error over seeds, sorted by {TITLES[comparison.metric]}; (-) marks a single "
        "seed. Losses, excess and gap in nats, lower is better; accuracy in [0, 1]. The baseline is shaded."
    )
    titles = ["mixer", "seeds", *(TITLES[name] for name in comparison.columns)]
    return _table(titles, rows) + _paragraph(caption, "muted")


def _verdicts(comparison: Comparison) -> str:
    items = "".join(
        f'<li class="{kind.replace(" ", "-")}">{escape(text).replace("+-", " &plusmn; ")}</li>'
        for kind, text in comparison.statements()
    )
    return f'<ul class="verdicts">{items}</ul>' if items else ""


def _differences(comparison: Comparison) -> str:
    rows = []
    for row in comparison.rows:
        if pairs := row.differences.get(comparison.baseline):
            pair = pairs[comparison.metric]
            cells = [_cell(signed(pairs[name])) for name in comparison.columns]
            wins = f"{pair.wins}/{pair.n}" if pair.n else "-"
            rows.append(("", [escape(row.label), str(pair.n), wins, *cells]))
    if not rows:
        return _paragraph("There is only one mixer setting, so there is nothing to pair.", "muted")
    titles = ["mixer", "shared seeds", "better in", *(TITLES[name] for name in comparison.columns)]
    caption = (
        f"Mixer minus {comparison.baseline} within each seed, mean \u00b1 standard error. "
        f'"Better in" counts seeds with a lower {TITLES[comparison.metric]}.'
    )
    return _table(titles, rows) + _paragraph(caption, "muted")


def _pictures(runs: Sequence[Run], comparison: Comparison) -> str:
    """All figures with captions; one that has no data is replaced by the reason."""
    pair = _headline_pair(runs, comparison)
    figures: list[tuple[Callable[[], Figure], str]] = [
        (lambda: plots.worst_excess(runs), CAPTIONS["worst"]),
        (lambda: plots.mixture_paths(runs), CAPTIONS["mixture"]),
        (lambda: plots.excess_paths(runs), CAPTIONS["excess"]),
        (lambda: plots.task_bars(runs), CAPTIONS["tasks"]),
    ]
    if pair is not None:
        figures.insert(0, (lambda: plots.headline(*pair), CAPTIONS["headline"]))
    return "".join(_figure(draw, caption) for draw, caption in figures)


def _rounds(runs: Sequence[Run]) -> str:
    """The section on runs that were made in rounds; empty when there is none."""
    groups = rounds.histories(runs)
    if not groups:
        return ""
    body = "".join(map(_paragraph, rounds.sentences(groups)))
    body += _figure(lambda: rounds.round_paths(runs), rounds.CAPTION)
    for table in (rounds.settings_table(groups), rounds.tasks_table(groups)):
        rows = (("", [_cell(cell) for cell in row]) for row in table.rows)
        body += _table(table.titles, rows) + _paragraph(table.caption, "muted")
    return _section("Rounds", body)


def _headline_pair(runs: Sequence[Run], comparison: Comparison) -> tuple[list[Run], list[Run]] | None:
    """Seeds of the best adaptive label and of the baseline; None when one of the two is missing."""
    drawn = {run.label for run in runs if run.mix_history is not None}
    adaptive = [row.label for row in comparison.rows if row.method == "adaptive" and row.label in drawn]
    adaptive = [label for label in adaptive if label != comparison.baseline]
    if not adaptive:
        return None
    ours, theirs = ([run for run in runs if run.label == label] for label in (adaptive[0], comparison.baseline))
    return ours, theirs


def _figure(draw: Callable[[], "Figure"], caption: str) -> str:
    try:
        figure = draw()
    except MixalignError as error:
        return _paragraph(str(error), "muted")
    title = figure.get_suptitle() or "; ".join(ax.get_title(loc="left") for ax in figure.axes)
    image = f"data:image/svg+xml;base64,{base64.b64encode(_svg(figure)).decode('ascii')}"
    alt = escape(f"{title}. {caption}".replace("\n", " "), quote=True)
    picture = f'<div class="scroll"><img src="{image}" alt="{alt}"></div>'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _svg(figure: "Figure") -> bytes:
    """The figure as SVG, the same bytes each time."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "mixalign"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _details(run: Run) -> str:
    """One run's numbers by task, folded away."""
    tasks = run.eval["tasks"]
    keys = [key for key in ("loss", "accuracy", "margin", "excess", "gap", "specialist_loss") if _any(tasks, key)]
    seen = {key: dict(zip(run.tasks, run.mixture.get(key) or (), strict=False)) for key in ("rows_seen", "epochs_seen")}
    rows = [
        (
            "",
            [
                escape(task),
                *(_number(row.get(key), 3) for key in keys),
                _number(seen["rows_seen"].get(task), 0),
                _number(seen["epochs_seen"].get(task), 2),
            ],
        )
        for task, row in tasks.items()
    ]
    titles = ["task", *(key.replace("_", " ") for key in keys), "rows seen", "epochs seen"]
    place = f'<span class="muted">{escape("/".join(run.path.parts[-2:]))}</span>'
    summary = f"<summary>{escape(run.label)}, seed {run.seed} {place}</summary>"
    return f"<details>{summary}{_table(titles, rows)}</details>"


def _any(tasks: dict[str, dict[str, Any]], key: str) -> bool:
    return any(not math.isnan(number(row.get(key))) for row in tasks.values())


def _number(value: object, digits: int) -> str:
    amount = number(value)
    return "-" if math.isnan(amount) else f"{amount:,.{digits}f}"


def _skipped(comparison: Comparison) -> str:
    return f"<ul>{''.join(f'<li>{escape(path)}: {escape(why)}</li>' for path, why in comparison.skipped)}</ul>"


def _definitions(runs: Sequence[Run]) -> str:
    pairs = any(_any(run.eval["tasks"], "margin") for run in runs)
    terms = [*DEFINITIONS, ("Accuracy", PREFERENCE if pairs else TOKENS)]
    return f"<dl>{''.join(f'<dt>{escape(term)}</dt><dd>{escape(text)}</dd>' for term, text in terms)}</dl>"

"""Which run to take, in words: how sure that is, what it gave to which task, what it cost, where its model lies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixalign.final_rows import FinalRows, behind_the_model
from mixalign.reporting.judge.comparison import TITLES, Comparison, Row
from mixalign.reporting.judge.followed import followed
from mixalign.reporting.judge.statistics import Paired, Score
from mixalign.reporting.judge.verdicts import MIN_SEEDS
from mixalign.reporting.read.costs import included, times_text
from mixalign.reporting.read.files import number
from mixalign.reporting.read.runs import Run

__all__ = ["Advice", "advise", "start_loss"]

SHOWN = 8  # tasks that a sentence names
SAME = 0.0005  # nats: a loss that rose by less is not said to be worse
STAYED = 0.005  # a share that moved by less is said to have stayed


@dataclass(frozen=True)
class Advice:
    """What a reader does next.

    Attributes:
        label: what to take. `proof`: "proven", "not proven"; empty where nothing is compared.
        score: its score by the metric of the comparison, in words.
        sentences: how sure that is, what it learned, what it gave to which task, what it cost.
        models: folders of the models, one a seed that kept one.
    """

    label: str
    proof: str
    score: str
    sentences: list[str]
    models: list[str]


def advise(comparison: Comparison, runs: Sequence[Run]) -> Advice:
    """The label with the lowest mean of the score that is compared, and what is to be said of it."""
    row = comparison.rows[0]
    group = [run for run in runs if run.label == row.label]
    proof, sure = _proof(comparison, row)
    behind = behind_the_model([run.eval for run in group])
    sentences = [sure, _learned(group), behind, _gave(row, group), _cost(comparison, row)]
    models = [str(run.path / "model") for run in group if (run.path / "model").is_dir()]
    return Advice(row.label, proof, _score(comparison, row, group), [text for text in sentences if text], models)


def start_loss(run: Run, task: str) -> float:
    """Mean test loss of the model that training started from; NaN where nothing says it.

    DPO's sigmoid loss of the reference policy is log 2 (arXiv 2305.18290, eq. 7, with equal log-probabilities).
    """
    row = run.eval["tasks"].get(task, {})
    return math.log(2.0) if "start_loss" not in row and _is_plain_dpo(run, task) else number(row.get("start_loss"))


def _is_plain_dpo(run: Run, task: str) -> bool:
    """Whether the task's loss is DPO's alone, on the model that the reference policy is."""
    objective, data = (run.config.get(key) or {} for key in ("objective", "data"))
    if run.objective != "dpo" or not isinstance(objective, dict):
        return False
    tasks = data.get("tasks") if isinstance(data, dict) else {}
    settings = tasks.get(task) if isinstance(tasks, dict) else {}
    of_its_own = isinstance(settings, dict) and settings.get("objective")
    more = number(objective.get("nll_weight")) > 0 or objective.get("reference_free")
    return objective.get("loss") == "sigmoid" and not more and not of_its_own


def _score(comparison: Comparison, row: Row, group: Sequence[Run]) -> str:
    score, kind = row.scores[comparison.metric], comparison.metric.removeprefix("worst_")
    worst = [(run.eval.get("worst") or {}).get(kind) for run in group]
    tasks = dict.fromkeys(str(entry["task"]) for entry in worst if isinstance(entry, dict) and "task" in entry)
    where = f", on {' or '.join(list(tasks)[:3])}" if tasks and score.n else ""
    return f"{TITLES[comparison.metric]} {_spelled(score)} nats{where}"


def _spelled(score: Score) -> str:
    if score.n < 2:
        return f"{score.mean:.3f} (one seed)" if score.n else "-"
    return f"{score.mean:.3f}+-{score.error:.3f}"


def _proof(comparison: Comparison, row: Row) -> tuple[str, str]:
    """Whether the best label is proven better than the best static mixture, and by how much."""
    if len(comparison.rows) == 1:
        return "", ""
    title = TITLES[comparison.metric]
    static = [other for other in comparison.rows if other.method == "static"]
    if not static:
        return "not proven", "No static mixture is among these runs, so nothing says whether deciding it was worth it."
    if row.method == "static":
        return "not proven", _static_first(comparison, row, title)
    verdicts = {v.other: v for v in comparison.verdicts if (v.label, v.metric) == (row.label, comparison.metric)}
    other = static[0].label  # rows are sorted: the best one
    verdict = verdicts[other]
    if verdict.kind == "better":
        words = f"Better than {other}, the best static mixture, on {title}: {_by(verdict.pair)}"
        return "proven", f"{words}, p {verdict.adjusted_p:.2g} after Holm's correction."
    if not verdict.pair.n:
        return "not proven", f"It shares no seed with {other}, the best static mixture: run both on the same seeds."
    ahead = f"The difference to {other}, the best static mixture, on {title} is {_by(verdict.pair)}"
    if verdict.kind == "too few":
        return "not proven", f"{ahead}; at least {MIN_SEEDS} shared seeds are needed to tell."
    return "not proven", f"{ahead}: the seeds do not tell the two apart, and {other} is the simpler choice."


def _static_first(comparison: Comparison, row: Row, title: str) -> str:
    others = sum(other.method != "static" for other in comparison.rows)
    if not others:
        return f"The lowest {title} of static mixtures; no method that decides it is among these runs."
    rest = "the one other method is not" if others == 1 else f"none of the {others} other methods is"
    return f"A static mixture has the lowest {title}; {rest} lower on average."


def _by(pair: Paired) -> str:
    interval = f" {pair.interval}" if pair.n > 1 else ""
    return f"{pair.mean:+.3f} nats{interval} over {pair.n} shared seed{'s' if pair.n > 1 else ''}"


def _learned(group: Sequence[Run]) -> str:
    """The loss of each task from the start to the end."""
    changes = []
    for task in group[0].eval["tasks"]:
        start = Score.of([start_loss(run, task) for run in group]).mean
        end = Score.of([number(run.eval["tasks"].get(task, {}).get("loss")) for run in group]).mean
        if not math.isnan(start - end):
            changes.append((end - start, f"{task} {start:.3f} to {end:.3f}"))
    if not changes:
        return ""
    worse = sum(change > SAME for change, _ in changes)
    note = f"; {worse} of {len(changes)} tasks became worse" if worse else ""
    listed, word = _few([text for _, text in changes]), FinalRows.of(run.eval for run in group).word.capitalize()
    return f"{word} loss from the start to the end of training: {listed}{note}."


def _gave(row: Row, group: Sequence[Run]) -> str:
    """The shares of the tasks at the beginning and at the end, those that moved most first, and what moved them."""
    group = [run for run in group if run.mix_history is not None]
    group = [run for run in group if run.tasks == group[0].tasks]
    histories: list[Any] = [run.mix_history for run in group]
    if not histories:
        return ""
    first_K, last_K = (np.mean([history.alpha_NK[place] for history in histories], axis=0) for place in (0, -1))
    order = np.argsort(-np.abs(last_K - first_K), kind="stable")
    if np.abs(last_K - first_K).max() < STAYED:
        shares = [f"{histories[0].tasks[k]} {last_K[k]:.0%}" for k in np.argsort(-last_K, kind="stable")]
        return f"Its mixture stayed: {_few(shares)}."
    shares = [f"{histories[0].tasks[k]} {first_K[k]:.0%} to {last_K[k]:.0%}" for k in order]
    moved = f"Its mixture moved, over training, from the first to the last step: {_few(shares)}."
    if not (read := followed(group, order.tolist())):
        return moved
    return (
        f"{moved} Its rule reads the {read[0]} of the training rows, from the first to the last quarter of the steps: "
        f"{_few(read[1:])} nats."
    )


def _few(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def _cost(comparison: Comparison, row: Row) -> str:
    bill = row.spent
    if bill is None or not bill.time.n:
        return ""
    steps = round(bill.extra_steps.mean) if bill.extra_steps.n else 0
    parts = f" ({', '.join(bill.parts)})" if bill.parts else ""
    beyond = f"{steps:,} optimizer steps beyond plain training{parts}" if steps else "no step beyond plain training"
    times = (
        f", {bill.times.mean:.2f} times {comparison.plain}" if bill.times.n and row.label != comparison.plain else ""
    )
    spent = times_text(bill.clock.mean, bill.cpu.mean)
    return f"It cost {beyond}; {spent}, {included(bill.parts)}{times}."

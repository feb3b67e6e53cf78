"""Generated answers on the page: scores of every task, and answers to the same prompts side by side."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mixalign.reporting.judge.statistics import Score
from mixalign.reporting.read.files import number
from mixalign.reporting.read.generations import Sample
from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.tables import Table

__all__ = ["ShownAnswer", "ShownSample", "TaskSamples", "generation_scores", "shown_samples"]

START = "start model"
A_TASK = 3  # prompts that are shown of each task before the reader opens the rest
MOST = 50  # prompts of a task that a page has
LONGEST = 600  # characters of a text that are shown
MARK = r"<[^<>\s]+>"  # of a chat template
CAPTION = (
    "Mean score of generated answers, mean \u00b1 standard error over seeds; 1 is right, 0 is wrong. Answers are "
    "generated to the same held-out prompts before and after training."
)


class ShownAnswer(NamedTuple):
    """Who answers, the text, and what is thought of it."""

    who: str
    text: str
    mark: str = ""


class ShownSample(NamedTuple):
    """A prompt and its answers."""

    prompt: str
    answers: Sequence[ShownAnswer]


class TaskSamples(NamedTuple):
    """The prompts of a task.

    Attributes:
        first: Those that stand on the page. `more`: those that the reader opens.
        note: How many of how many are shown; empty where all are.
    """

    task: str
    first: Sequence[ShownSample]
    more: Sequence[ShownSample]
    note: str


def generation_scores(runs: Sequence[Run]) -> Table | None:
    """The start model and every label, with the score of each task; None where nothing was scored."""
    scored = [run for run in runs if not math.isnan(run.score("mean_score"))]
    if not scored:
        return None
    tasks = list(dict.fromkeys(task for run in scored for task, row in run.eval["tasks"].items() if "score" in row))
    rows = [[START, str(len({run.seed for run in scored})), *_means(scored, tasks, "score_before")]]
    for label in dict.fromkeys(run.label for run in scored):
        group = [run for run in scored if run.label == label]
        rows.append([label, str(len(group)), *_means(group, tasks, "score")])
    return Table(["model", "seeds", *tasks, "mean"], rows, CAPTION)


def _means(runs: Sequence[Run], tasks: Sequence[str], key: str) -> list[str]:
    by_task = [[number(run.eval["tasks"].get(task, {}).get(key)) for run in runs] for task in tasks]
    scores = [Score.of(values) for values in [*by_task, [run.score(f"mean_{key}") for run in runs]]]
    return [str(score) if score.n else "-" for score in scores]


def shown_samples(runs: Sequence[Run]) -> list[TaskSamples]:
    """The prompts of every task that one run of each label has answered, all with the same seed."""
    answered = [run for run in runs if run.generations]
    if not answered:
        return []
    seed = min(run.seed for run in answered)
    chosen = {run.label: run for run in reversed(answered) if run.seed == seed}
    chosen = {label: chosen[label] for label in dict.fromkeys(run.label for run in answered) if label in chosen}
    by_label = {label: {(s.task, s.prompt): s for s in run.generations} for label, run in chosen.items()}
    first = next(iter(by_label.values()))
    common = [key for key in first if all(key in samples for samples in by_label.values())]
    shown: dict[str, list[ShownSample]] = {task: [] for task, _ in common}
    around = {task: _around_task([prompt for name, prompt in first if name == task], first) for task in shown}
    for key in common:
        head, tail = around[key[0]]
        prompt = _cut(key[1][head : len(key[1]) - tail].strip())
        shown[key[0]].append(ShownSample(prompt, _answers(first[key], {n: s[key] for n, s in by_label.items()})))
    return [_of_task(task, samples) for task, samples in shown.items()]


def _of_task(task: str, samples: Sequence[ShownSample]) -> TaskSamples:
    first, more, beyond = samples[:A_TASK], samples[A_TASK:MOST], samples[MOST:]
    note = f"{len(first)} of {len(samples)} shown" if more else ""
    if beyond:
        note += f"; {len(more)} more can be opened, the last {len(beyond)} are in generations.jsonl only"
    return TaskSamples(task, first, more, note)


def _answers(sample: Sample, by_label: Mapping[str, Sample]) -> list[ShownAnswer]:
    answers = [
        ShownAnswer("wanted", _cut(sample.answer)),
        ShownAnswer(START, _cut(sample.before), _mark(sample.score_before)),
    ]
    return answers + [ShownAnswer(label, _cut(one.after), _mark(one.score)) for label, one in by_label.items()]


def _mark(score: float) -> str:
    return "" if math.isnan(score) else {0.0: "wrong", 1.0: "right"}.get(score, f"{score:.2f}")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [... {len(text) - LONGEST:,} more characters]"


def _common(texts: Sequence[str]) -> str:
    """How all texts begin."""
    first, last = min(texts), max(texts)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:same]


def _around_task(prompts: Sequence[str], others: Iterable[tuple[str, str]]) -> tuple[int, int]:
    """Of a lone prompt, what it shares with those of other tasks that have marks as well."""
    marked = [prompt for _, prompt in others if re.match(MARK, prompt)]
    return _around(prompts if len(set(prompts)) > 1 else [*prompts, *marked])


def _around(prompts: Sequence[str]) -> tuple[int, int]:
    """Characters at the beginning and the end of a task's prompts that the chat template wrote, by its marks."""
    head = _common(prompts)
    if len(set(prompts)) < 2 or not re.match(MARK, head):
        return 0, 0
    tail = _common([prompt[::-1] for prompt in prompts])[::-1]
    marks = [match.end() for match in re.finditer(rf"{MARK}([a-z]+\n)?", head)]
    begin = re.search(MARK, tail)
    return (marks[-1] if marks else 0), (len(tail) - begin.start() if begin else 0)

"""Per-task results as `eval.json` and as a table for the terminal."""

import logging
from collections.abc import Mapping
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from torch import Tensor

from mixalign.files import write_json
from mixalign.final_rows import FinalRows, accuracy_means, behind_the_model, is_far_behind, lowest_of
from mixalign.terminal import Column, table_text, wrap

__all__ = ["eval_json", "eval_table", "remarks", "write_results"]

log = logging.getLogger(__name__)
STILL = 0.01  # of its start: a loss that changed by less is where it was
CANDIDATES = {"last": "last step", "best": "best step", "averaged": "mean of the last weights"}
SHOWN = ("loss", "specialist_loss", "gap", "excess", "accuracy", "margin", "score_before", "score")


def eval_json(
    *,
    mixer: str,
    static: bool,
    objective: str,
    seed: int,
    split: str,
    split_of: list[str],
    tasks: list[str],
    evaluation: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The results of one run.

    Args:
        static: whether the mixer never moves its mixture; reports compare with such runs.
        split_of: the split that each task's rows are of.
        evaluation: means by task (K,), and `count`; nan where a task has no row.

    Returns:
        `tasks` (every number of each task, its `split`, and `held_out`: whether training never looks at these rows),
        `mean` over tasks, and the `worst` task of each quantity. Losses are in nats; `excess` is
        mean max(loss - specialist loss, 0), `gap` the same without the clip.
    """
    quantities = {name: value_K.tolist() for name, value_K in evaluation.items() if name != "count"}
    by_task = {
        task: _rows(int(evaluation["count"][k]), split_of[k]) | {name: values[k] for name, values in quantities.items()}
        for k, task in enumerate(tasks)
    }
    worst = {}
    for name in ("excess", "gap", "loss", "accuracy"):
        if name in quantities:
            pick = min if name == "accuracy" else max
            known = [t for t in tasks if not isnan(by_task[t][name])] or tasks
            task = pick(known, key=lambda t: by_task[t][name])
            worst[name] = {"task": task, "value": by_task[task][name]}
    return {
        "mixer": mixer,
        "static": static,
        "objective": objective,
        "seed": seed,
        "split": split,
        "tasks": by_task,
        "mean": {name: sum(values) / len(values) for name, values in quantities.items()},
        "worst": worst,
    }


def write_results(path: Path, result: Mapping[str, Any]) -> None:
    """Writes results; warnings name the tasks of numbers that are not finite, and null in the file, and specialists
    that are too weak to judge by.
    """
    for task, row in result["tasks"].items():
        if bad := [name for name, value in row.items() if isinstance(value, float) and not isfinite(value)]:
            log.warning(
                "Task `%s` has no finite %s on its %s %s rows: null in %s, and left out of the worst task where it is "
                "not a number. Look for rows far from the rest, or lower `optimizer.lr`.",
                task, ", ".join(bad), row["rows"], result["split"], path.name,
            )  # fmt: skip
    if weak := [text for task, row in result["tasks"].items() if (text := _weak_specialist(task, row))]:
        log.warning(
            "Specialists are far behind the model that they judge: %s. Its excess is 0 there long before the task is "
            "learned, and mixers that read excess take it for done. Train specialists for more steps, or raise "
            "`specialists.lr`.",
            "; ".join(weak),
        )
    write_json(path, result)


def _weak_specialist(task: str, row: Mapping[str, Any]) -> str:
    if not is_far_behind(row):
        return ""
    start, specialist, loss = (row[name] for name in ("start_loss", "specialist_loss", "loss"))
    return f"that of `{task}` has loss {specialist:.3f}, the model {loss:.3f}, from {start:.3f}"


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _cell(row: Mapping[str, Any], name: str) -> str:
    """A number; of the loss also where it began, where that is known."""
    begun = f"{_shown(row['start_loss'])} -> " if name == "loss" and "start_loss" in row else ""
    return begun + _shown(row.get(name))


def _rows(number: int, split: str) -> dict[str, Any]:
    return {"rows": number, "split": split, "held_out": split == "test"}


def eval_table(result: dict[str, Any]) -> str:
    """The results as a table, losses in nats, the task with the worst excess (or loss) marked."""
    names = [n for n in SHOWN if n in result["mean"]]
    begun = "start_loss" in result["mean"]
    final = FinalRows.of([result])
    title = f"{result['mixer']} ({result['objective']}, seed {result['seed']}) on the {final.word} rows"
    worst = result["worst"].get("excess", result["worst"]["loss"])["task"]
    rows = [
        [task + (" <- worst" if task == worst else ""), f"{row['rows']:,}", *(_cell(row, n) for n in names)]
        for task, row in result["tasks"].items()
    ]
    mean = ["mean", "", *(_cell(result["mean"], n) for n in names)]
    titles = ("loss start->end" if begun and n == "loss" else n.replace("_", " ") for n in names)
    accuracy = f"accuracy: {accuracy_means(result)}" if "accuracy" in names else ""
    note = "\n".join(text for text in (accuracy, final.note, _kept(result)) if text)
    heads: list[str | Column] = ["task", "rows", *(Column(title, spare=title == "margin") for title in titles)]
    return table_text(heads, rows, totals=[mean], title=title, note=note)


def remarks(result: Mapping[str, Any]) -> str:
    """Lines on a training that left the model where it was, and on tasks that ended better than their specialist."""
    found = [text for text in (_hardly_moved(result), behind_the_model([result])) if text]
    return "".join(f"\n{wrap(text.replace('`', ''))}" for text in found)


def _hardly_moved(result: Mapping[str, Any]) -> str:
    ends = [(row.get("start_loss"), row.get("loss")) for row in result["tasks"].values()]
    changes = [abs(end - start) / start for start, end in ends if start and end is not None and isfinite(end)]
    if not changes or max(changes) >= STILL:
        return ""
    return (
        f"The run hardly moved the model: no task's loss is {STILL:.0%} away from its start. Train longer (steps, "
        "epochs), or raise optimizer.lr."
    )


def _kept(result: Mapping[str, Any]) -> str:
    """Of which step the weights are, and by what; nothing for models that no training of a generalist made."""
    if not (exported := result.get("exported")):
        return ""
    monitor, candidates = exported["monitor"], dict(exported.get("candidates") or {})
    what = f"kept: step {exported['step']} of {result['steps']}"
    if "averaged" in exported:
        first, last = exported["averaged"]
        what = f"kept: the mean of the weights of steps {first} to {last} of {result['steps']}"
    elif monitor is None:
        what += ", the last one"
    by = candidates.pop("by", monitor)
    if by is None:
        return what
    shown = ", ".join(f"{CANDIDATES[name]} {_shown(value)}" for name, value in candidates.items())
    chosen = f", with {lowest_of(by)}" if monitor else f"; {lowest_of(by).removeprefix('the lowest ')}"
    return f"{what}{chosen}: {shown or _shown(exported['value'])}"

"""Per-task results as `eval.json` and as a table for the terminal."""

from math import isnan
from typing import Any

from torch import Tensor

__all__ = ["eval_json", "eval_table"]

SHOWN = ("loss", "specialist_loss", "gap", "excess", "accuracy", "margin")


def eval_json(
    mixer: str, objective: str, seed: int, split: str, tasks: list[str], evaluation: dict[str, Tensor]
) -> dict[str, Any]:
    """The results of one run.

    Args:
        evaluation: means by task (K,), and `count`; nan where a task has no row.

    Returns:
        `tasks` (every number of each task), `mean` over tasks, and the `worst` task of each quantity. Losses are in
        nats; `excess` is mean max(loss - specialist loss, 0), `gap` the same without the clip.
    """
    quantities = {name: value_K.tolist() for name, value_K in evaluation.items() if name != "count"}
    by_task = {
        task: {"rows": int(evaluation["count"][k])} | {name: values[k] for name, values in quantities.items()}
        for k, task in enumerate(tasks)
    }
    worst = {}
    for name in ("excess", "gap", "loss", "accuracy"):
        if name in quantities:
            pick = min if name == "accuracy" else max
            task = pick((t for t in tasks if not isnan(by_task[t][name])), key=lambda t: by_task[t][name])
            worst[name] = {"task": task, "value": by_task[task][name]}
    return {
        "mixer": mixer,
        "objective": objective,
        "seed": seed,
        "split": split,
        "tasks": by_task,
        "mean": {name: sum(values) / len(values) for name, values in quantities.items()},
        "worst": worst,
    }


def eval_table(result: dict[str, Any]) -> str:
    """The results as aligned text, the task with the worst excess (or loss) marked."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    names = [n for n in SHOWN if n in result["mean"]]
    title = f"{result['mixer']} ({result['objective']}, seed {result['seed']}) on the {result['split']} rows"
    table = Table("task", "rows", *(n.replace("_", " ") for n in names), title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    worst = result["worst"].get("excess", result["worst"]["loss"])["task"]
    for task, row in result["tasks"].items():
        mark = " <- worst" if task == worst else ""
        table.add_row(task + mark, str(row["rows"]), *(f"{row[n]:.3f}" for n in names))
    table.add_section()
    table.add_row("mean", "", *(f"{result['mean'][n]:.3f}" for n in names))
    text = StringIO()
    Console(file=text, width=110).print(table)
    return text.getvalue().rstrip()

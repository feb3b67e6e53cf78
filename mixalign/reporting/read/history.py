"""What a run wrote while it trained: the path of its mixture (`mix.jsonl`) and its validation (`metrics.csv`).

Suffixes: `K` tasks, `N` recorded updates.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mixalign.errors import MixalignError
from mixalign.reporting.read.files import number, parse_object, read_text

__all__ = ["Array", "MixHistory", "Series", "read_mix_history", "read_validation"]

Array = npt.NDArray[np.float64]
Series = tuple[Array, Array]  # steps and values, of one length
MOVED = 1e-6  # a share that changes by less has stayed


@dataclass(frozen=True)
class MixHistory:
    """What `mix.jsonl` says: one row an update, one column a task; NaN where the file has null.

    Attributes:
        step_N: Optimizer steps, counted from 1; the rest is what each was taken with, and what was measured in it.
        sample_NK: Probability with which each task was drawn.
        loss_NK: Weight on each task's loss; all NaN in rows where the rule leaves the losses alone.
        excess_NK: Excess of the batch, in nats. `task_loss_NK`: its mean loss. `count_NK`: its samples.
    """

    tasks: tuple[str, ...]
    step_N: Array
    sample_NK: Array
    loss_NK: Array
    excess_NK: Array
    task_loss_NK: Array
    count_NK: Array

    @property
    def alpha_NK(self) -> Array:
        """The mixture as shares that sum to 1: the loss weights where there are any, else the sampling."""
        weight_NK = np.where(np.isnan(self.loss_NK).all(1, keepdims=True), self.sample_NK, self.loss_NK)
        weight_NK = np.nan_to_num(weight_NK)
        total_N1 = weight_NK.sum(1, keepdims=True)
        shares_NK: Array = weight_NK / np.where(total_N1 > 0, total_N1, 1.0)
        return shares_NK

    @property
    def moved(self) -> bool:
        """Whether some task's share changed while the run trained."""
        alpha_NK = self.alpha_NK
        return bool(np.abs(alpha_NK - alpha_NK[0]).max() >= MOVED)


def read_mix_history(path: Path, tasks: Sequence[str]) -> MixHistory | None:
    """The mixture's path; None when the file is absent or empty. Half a last line, of a killed writer, is left out.

    Raises:
        MixalignError: The file cannot be read, or a line has not one number a task.
    """
    text = read_text(path) if path.is_file() else ""
    lines = [(index, line) for index, line in enumerate(text.splitlines(), 1) if line.strip()]
    if lines and not text.endswith("\n") and not lines[-1][1].rstrip().endswith("}"):
        lines.pop()
    updates = [(index, parse_object(line, path, index)) for index, line in lines]
    sample = updates[0][1].get("sample") if updates else None
    num_tasks = len(tasks) or (len(sample) if isinstance(sample, list) else 0)
    if not updates or not num_tasks:
        return None
    names = tuple(tasks) or tuple(f"task {index}" for index in range(num_tasks))

    def matrix(key: str) -> Array:
        return np.array([_row(path, index, key, update.get(key), num_tasks) for index, update in updates])

    keys = ("sample", "loss", "excess", "task_loss", "count")
    step_N = np.array([number(update.get("step", index)) for index, update in updates])
    if step_N[0] == 0:  # of a version that counted steps from 0
        step_N += 1
    return MixHistory(names, step_N, *(matrix(key) for key in keys))


def _row(path: Path, line: int, key: str, values: object, num_tasks: int) -> list[float]:
    if values is None:
        return [math.nan] * num_tasks
    if not isinstance(values, list) or len(values) != num_tasks:
        got = f"{len(values)} numbers" if isinstance(values, list) else repr(values)
        raise MixalignError(f"`{path}`, line {line}: `{key}` has {got}; the run has {num_tasks} tasks.")
    return [number(value) for value in values]


def read_validation(path: Path) -> dict[str, Series]:
    """Every `eval...` column of the metrics file, empty cells left out; at equal steps the last one wins.

    A last line without its end is left out: a number that was cut off still looks like a number.

    Raises:
        MixalignError: The file cannot be read, or a row does not fit the header.
    """
    history: dict[str, dict[int, float]] = {}
    text = read_text(path) if path.is_file() else ""
    table = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    try:
        header = next(table, [])
        for row in filter(None, table):
            _add_row(history, path, table.line_num, header, row)
    except csv.Error as error:
        raise MixalignError(f"`{path}`, line {table.line_num}, is not valid CSV: {error}. Remove it.") from error
    return {
        name: (np.array(sorted(values), float), np.array([values[step] for step in sorted(values)]))
        for name, values in history.items()
    }


def _add_row(history: dict[str, dict[int, float]], path: Path, line: int, header: list[str], row: list[str]) -> None:
    if len(row) != len(header):
        raise MixalignError(
            f"`{path}`, line {line}, has {len(row)} cells; the header has {len(header)}. Remove or mend the line."
        )
    cells = dict(zip(header, row, strict=True))
    if not cells.get("step"):
        return
    step = _amount(cells["step"])
    if math.isnan(step):
        raise MixalignError(f"`{path}`, line {line}: `step` is {cells['step']!r}; a number is wanted.")
    for name, cell in cells.items():
        if name.startswith(("eval_", "eval/")) and cell:
            history.setdefault(name, {})[int(step)] = _amount(cell)


def _amount(cell: str) -> float:
    try:
        return number(float(cell))
    except ValueError:
        return math.nan

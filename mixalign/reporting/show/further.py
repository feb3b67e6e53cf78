"""Results of a run on further rows, and on tasks of lm-evaluation-harness, as tables of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from mixalign.reporting.read.files import number
from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.tables import Table

__all__ = ["further_table", "harness_table"]

OF_ROWS = (
    "Further rows; whether the training had any of them was not checked. nll is the mean negative log-likelihood of "
    "the answer, nats a token."
)
OF_HARNESS = "Tasks of lm-evaluation-harness {}; {}."


def further_table(runs: Sequence[Run], named: bool = True) -> Table | None:
    """The measures on further rows, a row a run, data set and task; None where no run has any.

    Args:
        named: whether the run is named in each row.
    """
    found = [
        (_label(run, data, named), task, row, results.get("measures") or {})
        for run in runs
        for data, results in _mapping(run.eval.get("further")).items()
        for task, row in _mapping(results.get("tasks")).items()
    ]
    keys = list(dict.fromkeys(key for *_, measures in found for key in measures))
    if not found:
        return None
    rows = [
        [f"{label}: {task}", str(row.get("rows", "")), *(_shown(row.get(key)) for key in keys)]
        for label, task, row, _ in found
    ]
    return Table(["data: task", "rows", *(key.replace("_", " ") for key in keys)], rows, OF_ROWS)


def harness_table(runs: Sequence[Run], named: bool = True) -> Table | None:
    """The numbers of lm-evaluation-harness, a row a run, task and metric; None where no run has any."""
    rows: list[list[str]] = []
    versions: dict[str, None] = {}
    ways: dict[str, None] = {}
    for run in runs:
        for task, values in _mapping(run.eval.get("lm_eval")).items():
            versions[str(values.get("version"))] = None
            ways["with the chat template" if values.get("chat_template") else "without a chat template"] = None
            front = f"{run.label}, seed {run.seed}: " if named else ""
            for name, value in values.items():
                if isinstance(value, float) and "_stderr" not in name:
                    metric, mark, way = name.partition(",")
                    error = number(values.get(f"{metric}_stderr{mark}{way}"))
                    shown = _shown(value) + (f"+-{error:.3f}" if error == error else "")
                    rows.append([front + task, name.replace(",", ", "), str(values.get("rows", "")), shown])
    caption = OF_HARNESS.format(", ".join(versions), ", ".join(ways))
    return Table(["task", "metric", "rows", "value"], rows, caption) if rows else None


def _label(run: Run, data: str, named: bool) -> str:
    return f"{run.label}, seed {run.seed}, {data}" if named else data


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _shown(value: Any) -> str:
    known = number(value)
    return f"{known:.3f}" if known == known else "-"

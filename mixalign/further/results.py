"""Where further numbers go: the terminal, a file of the user's own, and of a run its eval.json."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixalign.files import read_json, write_json
from mixalign.terminal import table_text, wrap

__all__ = ["FURTHER", "LM_EVAL", "further_text", "harness_text", "keep"]

log = logging.getLogger(__name__)
FURTHER, LM_EVAL = "further", "lm_eval"  # keys of eval.json


def further_text(found: Mapping[str, Any], place: str) -> str:
    """The measures as a table."""
    names = [name for name in found["measures"] if name != "start_nll"]
    begun = "start_nll" in found["mean"]
    heads = [
        "task",
        "rows",
        *("nll start->end" if begun and name == "nll" else name.replace("_", " ") for name in names),
    ]
    rows = [[task, f"{row['rows']:,}", *(_cell(row, name) for name in names)] for task, row in found["tasks"].items()]
    mean = [["mean", "", *(_cell(found["mean"], name) for name in names)]] if len(rows) > 1 else []
    note = "\n".join(f"{name.replace('_', ' ')}: {found['measures'][name]}" for name in names)
    return table_text(heads, rows, totals=mean, title=f"{found['model']} on {place}", note=note)


def _cell(row: Mapping[str, Any], name: str) -> str:
    begun = f"{row['start_nll']:.3f} -> " if name == "nll" and "start_nll" in row else ""
    return begun + f"{row[name]:.3f}" if name in row else "n/a"


def harness_text(found: Mapping[str, Any], what: str) -> str:
    """The numbers of the harness, a line a metric."""
    lines = []
    for task, values in found["tasks"].items():
        for name, value in values.items():
            if name != "rows" and "_stderr" not in name:
                metric, _, way = name.partition(",")
                error = values.get(f"{metric}_stderr" + (f",{way}" if way else ""))
                shown = f"{value:.3f}" + ("" if error is None else f" +- {error:.3f}")
                lines.append([task, str(values.get("rows", "")), name.replace(",", ", "), shown])
    chat = "with" if found["chat_template"] else "without"
    title = f"{what} on tasks of lm-evaluation-harness {found['version']}, {chat} the chat template"
    return table_text(["task", "rows", "metric", "value"], lines, title=wrap(title))


def keep(run: Path, further: Mapping[str, Any], harness: Mapping[str, Any] | None) -> None:
    """Adds the numbers to a finished run's eval.json, beside those that were added before.

    Args:
        further: name of the rows -> results; `harness`: what `run_harness` gives.
    """
    path = run / "eval.json"
    result = read_json(path)
    if further:
        result[FURTHER] = {**result.get(FURTHER, {}), **further}
    if harness is not None:
        tasks = {task: {**values, **_how(harness)} for task, values in harness["tasks"].items()}
        result[LM_EVAL] = {**result.get(LM_EVAL, {}), **tasks}
    write_json(path, result)
    log.info("kept in %s", path)


def _how(harness: Mapping[str, Any]) -> dict[str, Any]:
    return {key: harness[key] for key in ("chat_template", "limit", "version")}

"""What one run was: its model, data and settings, what its log warns of, and its numbers by task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixalign.final_rows import lowest_of
from mixalign.reporting.judge.advice import start_loss
from mixalign.reporting.read.files import number
from mixalign.reporting.read.runs import Run
from mixalign.reporting.show.card_text import out_of
from mixalign.reporting.show.shown_table import Cell, ShownTable

__all__ = ["ShownRun", "shown_run"]

NUMBERS = ("loss", "accuracy", "margin", "excess", "gap", "specialist_loss", "score_before", "score")  # of a task
WARNINGS = 8  # of a log that are shown


@dataclass(frozen=True)
class ShownRun:
    """One run: what it was, and its numbers by task."""

    label: str
    seed: int
    folder: str
    facts: Mapping[str, str]
    warnings: Sequence[str]
    table: ShownTable


def shown_run(run: Run) -> ShownRun:
    """The view of a finished run."""
    more = len(run.warnings) - WARNINGS
    warnings = [*run.warnings[:WARNINGS], *([f"and {more} more, in train.log"] if more > 0 else [])]
    return ShownRun(run.label, run.seed, str(run.path), _facts(run), warnings, _numbers(run))


def _has(tasks: Mapping[str, Mapping[str, Any]], key: str) -> bool:
    """Whether some task has a number of this name."""
    return any(not math.isnan(number(row.get(key))) for row in tasks.values())


def _facts(run: Run) -> dict[str, str]:
    """Terms and what is said of them; those that the folder does not say are left out."""
    config, steps = run.config, run.mixture.get("steps", run.config.get("steps"))
    facts = {
        "Model": _model(run),
        "Data": _data(run),
        "Objective": _objective(run),
        "Optimizer": _pairs(config.get("optimizer"), {"lr": "lr", "schedule": "schedule", "warmup_steps": "warm-up"}),
        "LoRA": _pairs(config.get("lora"), {"r": "r", "lora_alpha": "alpha", "target_modules": "on"}) or "none",
        "Steps": f"{steps} of {config.get('batch_size', '?')} rows" if steps is not None else "",
        "Kept": _kept(run),
        "Cost": "" if run.cost is None else run.cost.text,
        "Stopped": str(run.eval.get("stopped") or ""),
    }
    return {term: text for term, text in facts.items() if text}


def _first(group: object, *keys: str) -> str:
    known = group if isinstance(group, dict) else {}
    value = next((str(known[key]) for key in keys if known.get(key)), "")
    return value.rpartition(".")[2] if value.startswith("mixalign.") else value


def _model(run: Run) -> str:
    """The base model as the card names it, or where it was read."""
    if name := run.origin.get("base_model"):
        return f"{name}{out_of(run.origin.get('base_file'))}"
    return _first(run.config.get("model"), "path", "package", "gguf_file", "name", "_target_")


def _data(run: Run) -> str:
    """The tasks with where their rows are from; the configuration may have entries of a few of them only."""
    data = run.config.get("data")
    entries = data.get("tasks") if isinstance(data, dict) else None
    parts = []
    for name in run.tasks:
        source = _first(entries.get(name) if isinstance(entries, dict) else None, "path", "generator", "name")
        parts.append(name if source in ("", name) else f"{name} ({source})")
    return ", ".join(parts)


def _objective(run: Run) -> str:
    words = _pairs(run.config.get("objective"), {"loss": "loss", "beta": "beta"})
    return run.objective.upper() + (f", {words}" if words else "")


def _pairs(group: object, keys: Mapping[str, str]) -> str:
    known = group if isinstance(group, dict) else {}
    return ", ".join(f"{word} {known[key]}" for key, word in keys.items() if known.get(key) is not None)


def _kept(run: Run) -> str:
    """Which step's model was kept, and why."""
    exported = run.eval.get("exported")
    if not isinstance(exported, dict) or exported.get("step") is None:
        return ""
    value, monitor = number(exported.get("value")), exported.get("monitor")
    why = f", with {lowest_of(str(monitor))} ({value:.4f})" if monitor and not math.isnan(value) else ""
    first, last = exported.get("averaged") or (None, exported["step"])
    return f"{f'the mean of the weights of steps {first} to {last}' if first else f'the model of step {last}'}{why}"


def _numbers(run: Run) -> ShownTable:
    tasks = run.eval["tasks"]
    keys = [key for key in NUMBERS if _has(tasks, key)]
    seen = {key: dict(zip(run.tasks, run.mixture.get(key) or (), strict=False)) for key in ("rows_seen", "epochs_seen")}
    starts = {task: start_loss(run, task) for task in tasks}
    known = not all(map(math.isnan, starts.values()))
    rows = []
    for task, row in tasks.items():
        cells = [_rounded(starts[task], 3)] if known else []
        cells += [_rounded(row.get(key), 3) for key in keys]
        cells += [_rounded(seen["rows_seen"].get(task), 0), _rounded(seen["epochs_seen"].get(task), 2)]
        rows.append((task, cells))
    titles = ["task", *(["loss at start"] if known else []), *(key.replace("_", " ") for key in keys)]
    return ShownTable([*titles, "rows seen", "epochs seen"], rows)


def _rounded(value: object, digits: int) -> Cell:
    amount = number(value)
    return Cell("-" if math.isnan(amount) else f"{amount:,.{digits}f}")

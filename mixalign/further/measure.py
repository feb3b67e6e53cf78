"""What can be said of a model on rows: log-likelihoods, and with a run's reference policy its objective's measures."""

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.frozen.score import score_rows
from mixalign.further.model import Opened
from mixalign.further.rows import Table
from mixalign.jobs.check_model import check_model
from mixalign.models.precision import CAST
from mixalign.objectives.base import Objective
from mixalign.objectives.frozen_losses import frozen_scores
from mixalign.stopping import stage

__all__ = ["MEANING", "device_of", "measure", "size_of"]

log = logging.getLogger(__name__)
SIZE = 8  # rows of a forward pass where no run says it
MEANING = {
    "start_nll": "nll of the model that the run started from",
    "nll": "negative log-likelihood of the answer (of pairs: the chosen one; with labels: those that are desired), "
    "nats a token, the mean over rows",
    "nll_other": "the same of the rejected or undesired answers",
    "logp_accuracy": "share of pairs whose chosen answer is more likely than the rejected one, without any reference",
    "loss": "the run's objective, against its reference policy where it reads one",
    "accuracy": "share of pairs that the objective ranks rightly",
    "margin": "mean difference that the objective sees between chosen and rejected",
}


def measure(model: nn.Module, opened: Opened, tables: Sequence[Table], batch_size: int | None = None) -> dict[str, Any]:
    """The measures of each task, their mean over the tasks that have them, and what they mean.

    Args:
        model: as `opened.build` made it.
        batch_size: rows of a forward pass; None: as the run has it, else 8.

    Returns:
        `tasks`, `mean`, `measures` (name -> meaning), and `model`: what was measured.

    Raises:
        MixalignError: when the model cannot read the rows.
    """
    size = batch_size or size_of(opened)
    check_model(model, opened.tokenizer, [table.rows for table in tables], None)
    with stage("the evaluation"):
        logp = _logp(model, tables, opened, size)
    rows = [_plain(table, logp_NS) for table, logp_NS in zip(tables, logp, strict=True)]
    _add_start(opened, tables, rows, logp, size)
    tasks = {table.task: _in_order(row) for table, row in zip(tables, rows, strict=True)}
    return _summary(opened.what, tasks)


def size_of(opened: Opened) -> int:
    """Rows of a forward pass: as the run has it, else 8."""
    given = opened.settings.eval_batch_size if opened.settings else SIZE
    return given if isinstance(given, int) else SIZE


def _logp(model: nn.Module, tables: Sequence[Table], opened: Opened, size: int) -> list[np.ndarray]:
    """Log-probabilities (N, S) of each table, in the run's precision, or that of the weights."""
    precision = str(opened.settings.trainer.precision) if opened.settings else "auto"
    if precision == "auto":
        dtype = next(model.parameters()).dtype
        precision = next((name for name, of in CAST.items() if of == dtype), "32-true")
    model.to(device_of(opened))
    return [score_rows(model, table.rows, {}, size, precision=precision).logp_NS for table in tables]


def device_of(opened: Opened) -> str:
    """Where the model is read."""
    on_cpu = opened.settings is not None and opened.settings.trainer.accelerator == "cpu"
    return "cuda" if torch.cuda.is_available() and not on_cpu else "cpu"


def _plain(table: Table, logp_NS: np.ndarray) -> dict[str, Any]:
    """What needs no reference policy."""
    rows = table.rows
    nll_NS = -logp_NS / rows.num_tokens(0, len(rows))
    found: dict[str, Any] = {"rows": len(rows), "kind": table.kind, "source": table.source}
    if table.kind == "preference":
        better_N = (logp_NS[:, 0] > logp_NS[:, 1]).astype(np.float64)
        return found | {
            "nll": rows.mean(nll_NS[:, 0]),
            "nll_other": rows.mean(nll_NS[:, 1]),
            "logp_accuracy": rows.mean(better_N),
        }
    if table.kind == "supervised":
        return found | {"nll": rows.mean(nll_NS[:, 0])}
    wanted_N = rows.columns["label"].astype(bool)
    parts = {"nll": nll_NS[wanted_N, 0], "nll_other": nll_NS[~wanted_N, 0]}
    return found | {name: float(part_M.mean()) for name, part_M in parts.items() if len(part_M)}


def _add_start(
    opened: Opened, tables: Sequence[Table], rows: list[dict[str, Any]], logp: list[np.ndarray], size: int
) -> None:
    """Adds what the run gives: how its start does, and the measures of its objective."""
    if opened.settings is None or opened.start is None:
        return
    objective = opened.settings.objective.for_tasks([table.objective for table in tables])
    reference = _reference(opened.start, opened, tables, size)
    for k, (table, row, logp_NS) in enumerate(zip(tables, rows, logp, strict=True)):
        if reference is not None:
            row["start_nll"] = _plain(table, reference[k]).get("nll")
        if objective.form != table.kind or (objective.uses_reference and reference is None):
            continue
        if reference is not None:
            table.rows.attach("reference_logp", reference[k])
        row |= _of_objective(objective, table.rows, logp_NS, k)


def _reference(
    start: Callable[[], nn.Module], opened: Opened, tables: Sequence[Table], size: int
) -> list[np.ndarray] | None:
    """Log-probabilities under the model that the run started from; None, with a warning, where it is gone."""
    try:
        model = start()
    except MixalignError as error:
        log.warning("The model that the run started from is left out, and measures against it: %s", error)
        return None
    try:
        with stage("the evaluation of the start model"):
            return _logp(model, tables, opened, size)
    finally:
        del model
        gc.collect()


def _of_objective(objective: Objective, rows: TaskDataset, logp_NS: np.ndarray, task: int) -> dict[str, float]:
    found = frozen_scores(objective, rows, logp_NS, task)
    return {name: rows.mean(found[name], np.float64) for name in ("loss", "accuracy", "margin") if name in found}


def _in_order(row: Mapping[str, Any]) -> dict[str, Any]:
    about = {key: row[key] for key in ("rows", "kind", "source")}
    return about | {key: row[key] for key in MEANING if row.get(key) is not None}


def _summary(what: str, tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    had = [key for key in MEANING if any(key in row for row in tasks.values())]
    values = {key: [row[key] for row in tasks.values() if key in row] for key in had}
    mean = {key: sum(found) / len(found) for key, found in values.items()}
    return {"model": what, "tasks": tasks, "mean": mean, "measures": {key: MEANING[key] for key in had}}

"""How good specialists are on the rows that they are for, and which do not help there."""

import logging
from collections.abc import Sequence

import numpy as np

from mixalign.data.dataset import TaskDataset
from mixalign.frozen.cache import Frozen, on_loan, score
from mixalign.jobs.job import Job
from mixalign.objectives.frozen_losses import frozen_losses

__all__ = ["OF_START", "say_loss", "warn_of_useless", "worse_than_start"]

log = logging.getLogger(__name__)
OF_START = "losses of the start"  # a stage of a run


def say_loss(tables: Sequence[tuple[int, str, TaskDataset]]) -> None:
    """Says how good a specialist became, on the validation rows among its tables, (task, split, table) each."""
    for _, split, table in tables:
        if split == "validation" and len(table):
            loss = _mean(table, table.columns["specialist_loss"])
            log.info("its loss: %.3f on the validation rows of %s", loss, table.task)


def warn_of_useless(job: Job, reference: Frozen) -> None:
    """Names, in one warning, every task whose specialist is no better than the model that training starts from."""
    found = worse_than_start(job, reference)
    named = [f"`{task}` (loss {loss:.3f} against {start:.3f})" for task, (loss, start) in found.items()]
    if named:
        log.warning(
            "On their own task's validation rows, specialists are no better than the model that training starts from: "
            "%s. Excess over them says nothing: a model that learns nothing has none. Train them for more steps, for "
            "fewer where they memorise their rows (`specialists.export=best` keeps the best step), or set "
            "`specialists.lr`.",
            ", ".join(named),
        )


def worse_than_start(job: Job, reference: Frozen) -> dict[str, tuple[float, float]]:
    """Mean losses of a specialist and of the start on the task's validation rows, for each task where it is no better.

    The start is the reference policy: objectives that compare with it have its scores already; for others the
    validation rows are scored once, and kept in the cache.

    Args:
        job: with specialists' losses on its rows.
    """
    tables = {k: table for k, split, table in job.all_datasets if split == "validation" and len(table)}
    known = [table for table in tables.values() if "specialist_loss" in table.columns]
    found = {}
    with on_loan(reference, job, known) as loan:
        for number, table in tables.items():
            if "specialist_loss" not in table.columns:
                continue
            if "reference_logp" in table.columns:
                logp_NS: np.ndarray = table.columns["reference_logp"]
            else:
                job.course.enter(OF_START)
                logp_NS = score(job, reference, loan, table, f"reference {table.task} validation").align(table)
            start = _mean(table, frozen_losses(job.objective, table, logp_NS, number))
            loss = _mean(table, table.columns["specialist_loss"])
            if not loss < start:
                found[table.task] = (loss, start)
    return found


def _mean(table: TaskDataset, loss_N: np.ndarray) -> float:
    return table.mean(loss_N, np.float64)

"""How a run's start model does on the rows that its result is judged on: what training has changed."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from mixalign.data.dataset import TaskDataset
from mixalign.frozen.cache import Frozen, Loan, on_loan, score_path, score_recipe
from mixalign.frozen.score import score_on_ranks
from mixalign.frozen.table import ScoreTable
from mixalign.frozen.worse import OF_START
from mixalign.jobs.job import Job
from mixalign.objectives.frozen_losses import frozen_losses
from mixalign.stopping import stage

__all__ = ["start_losses", "with_start"]

log = logging.getLogger(__name__)
SPREAD = ("fsdp", "fullysharded", "deepspeed")  # strategies for models that one process may not hold


def start_losses(job: Job, reference: Frozen, split: str) -> dict[str, float]:
    """The mean loss of the model that training starts from, nats, by task; empty where it is not to be measured.

    Where the objective reads the reference policy, that is this model, and its scores are with the rows: nothing is
    computed (the loss of DPO is ln 2). Else it is read once, unless its scores are in the cache.

    Args:
        split: whose rows.
    """
    tables = job.data[split]
    if not job.settings.eval.start:
        return {}
    if job.objective.uses_reference:
        if any("reference_logp" not in table.columns for table in tables):
            return {}
        return _means(job, tables, [table.columns["reference_logp"] for table in tables])
    if any(name in str(job.settings.trainer.strategy).lower() for name in SPREAD):
        log.info("The start model is not measured: `trainer.strategy` spreads what one process may not hold.")
        return {}
    job.course.enter(OF_START)
    with stage("the evaluation of the start model"), on_loan(reference, job, tables) as loan:
        return _means(job, tables, [_scores(job, reference, loan, table) for table in tables])


def _scores(job: Job, reference: Frozen, loan: Loan, table: TaskDataset) -> np.ndarray:
    """Log-probabilities (N, S) under the start model."""
    recipe = score_recipe(job, reference, table)
    path = score_path(job, recipe)
    if path.is_file():
        return ScoreTable.load(path, recipe).align(table)
    return score_on_ranks(loan(), table, recipe, job.eval_batch_size, job.layout, job.precision).align(table)


def _means(job: Job, tables: list[TaskDataset], logp: list[np.ndarray]) -> dict[str, float]:
    return {
        task: table.mean(frozen_losses(job.objective, table, logp_NS, k), np.float64)
        for k, (task, table, logp_NS) in enumerate(zip(job.tasks, tables, logp, strict=True))
    }


def with_start(result: Mapping[str, Any], start: Mapping[str, float]) -> dict[str, Any]:
    """Results with `start_loss` of every task and their mean; as they are where the start was not measured."""
    if not start:
        return dict(result)
    tasks = {task: {**row, "start_loss": start[task]} for task, row in result["tasks"].items()}
    return {**result, "tasks": tasks, "mean": {**result["mean"], "start_loss": sum(start.values()) / len(start)}}

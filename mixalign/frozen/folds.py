"""Cross-fitted specialists: several of a task, each trained without a fold of its rows, which it then scores.

A specialist knows the rows that it was trained on, so that its losses on them are lower than on others of their kind.
Suffixes: `N` rows of a table, `M` some of them.
"""

from collections.abc import Sequence

import numpy as np

from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.frozen.cache import Frozen, on_loan, score
from mixalign.jobs.job import Job
from mixalign.objectives.frozen_losses import frozen_losses

__all__ = ["attach_cross_fitted", "fold_of", "inside", "outside"]


def fold_of(dataset: TaskDataset, folds: int) -> np.ndarray:
    """int64 (N,): the fold of each row, by its content alone: equal rows share one, whatever their order.

    Raises:
        MixalignError: when the task has fewer different rows than folds.
    """
    known_M, place_N = np.unique(dataset.row_id_N, return_inverse=True)  # content hashes, so their order is random
    if len(known_M) < folds:
        raise MixalignError(
            f"`specialists.folds` is {folds}, but task `{dataset.task}` has {len(known_M)} different training row(s). "
            "Take fewer folds, or give the task more rows."
        )
    fold_N: np.ndarray = place_N.reshape(-1) % folds
    return fold_N


def inside(dataset: TaskDataset, folds: int, fold: int) -> TaskDataset:
    """The rows of a fold, which its specialist has not seen."""
    return dataset.take(np.flatnonzero(fold_of(dataset, folds) == fold))


def outside(dataset: TaskDataset, folds: int, fold: int) -> TaskDataset:
    """The rows of all other folds, on which its specialist is trained."""
    return dataset.take(np.flatnonzero(fold_of(dataset, folds) != fold))


def attach_cross_fitted(job: Job, models: Sequence[Frozen], task: int) -> None:
    """Gives a task's rows the column `specialist_loss`.

    A training row has the loss of the specialist that has not seen it, any other row the mean of all of them.

    Args:
        models: one a fold.
    """
    folds, tables = len(models), {split: d for k, split, d in job.all_datasets if k == task}
    fold_N = fold_of(tables["train"], folds)
    loss = {split: np.zeros(len(table), np.float64) for split, table in tables.items()}
    for fold, model in enumerate(models):
        parts = {"train": inside(tables["train"], folds, fold)}
        parts |= {split: table for split, table in tables.items() if split != "train"}
        with on_loan(model, job, list(parts.values())) as loan:
            for split, part in parts.items():
                scores = score(job, model, loan, part, f"specialist {part.task} {fold + 1}/{folds} {split}")
                part_M = frozen_losses(job.objective, part, scores.align(part), task)
                if split == "train":
                    loss[split][fold_N == fold] = part_M
                else:
                    loss[split] += part_M / folds
    for split, table in tables.items():
        table.attach("specialist_loss", loss[split].astype(np.float32))

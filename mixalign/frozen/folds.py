"""Cross-fitted specialists: several of a task, each trained without a fold of its rows, which it then scores.

A specialist knows the rows that it was trained on, so that its losses on them are lower than on others of their kind.
Suffixes: `N` rows of a table, `M` some of them.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.frozen.cache import Frozen, on_loan, score
from mixalign.jobs.job import Job
from mixalign.objectives.frozen_losses import frozen_losses

__all__ = ["attach_cross_fitted", "fold_of", "inside", "outside", "stage_name"]


def fold_of(dataset: TaskDataset, folds: int) -> np.ndarray:
    """int64 (N,): the fold of each row, by its content alone: rows of one prompt share one, whatever their order.

    A specialist that was trained on the other answer to a prompt has seen half of a row, and where pairs were taken
    apart all of it. Where a prompt has more rows than a fold should (all of them, where there are no prompts), only
    equal rows share a fold. Rows of weight 0 fill no fold by themselves.

    Raises:
        MixalignError: when the task has fewer different prompts, or rows, that count than folds.
    """
    hash_M, place_N = np.unique(_prompt_or_row(dataset, folds), return_inverse=True)  # their order is random
    place_N = place_N.reshape(-1)
    counts_M = np.bincount(place_N, dataset.relative_weights(slice(None)) > 0, len(hash_M)) > 0
    if counts_M.sum() < folds:
        raise MixalignError(
            f"`specialists.folds` is {folds}, but task `{dataset.task}` has {counts_M.sum()} different training row(s)"
            f"{'' if counts_M.all() else ' of a weight above 0'}. Take fewer folds, or give the task more rows."
        )
    number_M = np.empty(len(hash_M), np.int64)
    number_M[np.argsort(~counts_M, kind="stable")] = np.arange(len(hash_M))
    fold_N: np.ndarray = number_M[place_N] % folds
    return fold_N


def _prompt_or_row(dataset: TaskDataset, folds: int) -> np.ndarray:
    """int64 (N,): a hash of each row's prompt, or of the whole row where prompts are too few to be dealt out."""
    prompts = (np.ascontiguousarray(dataset[n]["prompt"], np.int32).tobytes() for n in range(len(dataset)))
    digests = [hashlib.blake2b(prompt, digest_size=8).digest() for prompt in prompts]
    hash_N = np.array([int.from_bytes(digest, "little") >> 1 for digest in digests], np.int64)
    most = np.unique(hash_N, return_counts=True)[1].max(initial=0)
    return hash_N if most * folds <= len(dataset) else dataset.row_id_N


def inside(dataset: TaskDataset, folds: int, fold: int) -> TaskDataset:
    """The rows of a fold, which its specialist has not seen."""
    return dataset.take(np.flatnonzero(fold_of(dataset, folds) == fold))


def outside(dataset: TaskDataset, folds: int, fold: int) -> TaskDataset:
    """The rows of all other folds, on which its specialist is trained."""
    return dataset.take(np.flatnonzero(fold_of(dataset, folds) != fold))


def stage_name(task: str, fold: int, folds: int) -> str:
    """A specialist as the stage of a run."""
    return f"specialist {task}" + (f" {fold + 1}/{folds}" if folds > 1 else "")


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
                scores = score(job, model, loan, part, f"{stage_name(part.task, fold, folds)} {split}")
                part_M = frozen_losses(job.objective, part, scores.align(part), task)
                if split == "train":
                    loss[split][fold_N == fold] = part_M
                else:
                    loss[split] += part_M / folds
    for split, table in tables.items():
        table.attach("specialist_loss", loss[split].astype(np.float32))

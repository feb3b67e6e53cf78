"""Tokenised rows to a padded batch."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from mixalign.data.dataset import TaskDataset
from mixalign.types import Batch, TokenRow

__all__ = ["Layout", "Sides", "collate", "pick", "score_columns"]

Sides = tuple[int, ...] | None
"""Which completions of each row a batch has; None: all S."""


class Layout(Protocol):
    """Makes a batch of the chosen rows of some tasks: `collate` here, or `pack`."""

    def __call__(
        self, datasets: Sequence[TaskDataset], task_B: np.ndarray, row_B: np.ndarray, /, sides: Sides = None
    ) -> Batch: ...


def collate(
    datasets: Sequence[TaskDataset], task_B: np.ndarray, row_B: np.ndarray, /, sides: Sides = None, *, pad_id: int = 0
) -> Batch:
    """Pads the chosen rows to one rectangle and lists the positions whose targets the loss reads.

    Padding is on the right and needs no mask: under causal attention no real token sees it, and only listed
    positions reach the LM head.

    Args:
        datasets: the tasks' tables, all with the same number of completions S.
        task_B: task of each sample.
        row_B: row of each sample within its task.
        sides: which of the completions are there, and in `reference_logp_BS`.
    """
    rows = [pick(datasets[t][int(r)], sides) for t, r in zip(task_B, row_B, strict=True)]
    sequences = [
        (row["prompt"], c, m) for row in rows for c, m in zip(row["completions"], row["supervised"], strict=True)
    ]
    width = max(len(p) + len(c) for p, c, _ in sequences)
    input_ids = np.full((len(sequences), width), pad_id, np.int64)
    predict, target, count = [], [], []
    for s, (prompt, completion, supervised) in enumerate(sequences):
        input_ids[s, : len(prompt)] = prompt
        input_ids[s, len(prompt) : len(prompt) + len(completion)] = completion
        place = np.flatnonzero(supervised)
        predict.append(s * width + len(prompt) - 1 + place)
        target.append(completion[place])
        count.append(len(place))
    num_tokens = torch.tensor(count, dtype=torch.float32)
    batch = Batch(
        input_ids=torch.from_numpy(input_ids),
        predict_N=torch.from_numpy(np.concatenate(predict)),
        target_N=torch.from_numpy(np.concatenate(target).astype(np.int64)),
        sequence_N=torch.from_numpy(np.repeat(np.arange(len(sequences)), count)),
        num_tokens_BS=num_tokens.view(len(rows), -1),
        task_B=torch.from_numpy(np.asarray(task_B, np.int64)),
        row_id_B=torch.tensor([row["row_id"] for row in rows]),
    )
    return batch | score_columns(datasets, task_B, row_B, sides)


def pick(row: TokenRow, sides: Sides) -> TokenRow:
    """The row with some of its completions."""
    if sides is None:
        return row
    completions, supervised = ([part[s] for s in sides] for part in (row["completions"], row["supervised"]))
    return TokenRow(row_id=row["row_id"], prompt=row["prompt"], completions=completions, supervised=supervised)


def score_columns(datasets: Sequence[TaskDataset], task_B: np.ndarray, row_B: np.ndarray, sides: Sides = None) -> Batch:
    """The scores, labels and weights that the tasks carry, one entry a sample.

    Weights are there when any of the tasks has some; a row's is over the mean weight of its table, see `TaskDataset`.
    """
    out = Batch()
    if any("weight" in dataset.columns for dataset in datasets):
        out["weight_B"] = _weights(datasets, np.asarray(task_B), np.asarray(row_B))
    if all("label" in datasets[t].columns for t in task_B):
        out["label_B"] = _column(datasets, task_B, row_B, "label")
    if all("reference_logp" in datasets[t].columns for t in task_B):
        logp_BS = _column(datasets, task_B, row_B, "reference_logp")
        out["reference_logp_BS"] = logp_BS if sides is None else logp_BS[:, list(sides)]
    if all("specialist_loss" in datasets[t].columns for t in task_B):
        out["specialist_loss_B"] = _column(datasets, task_B, row_B, "specialist_loss")
    return out


def _column(datasets: Sequence[TaskDataset], task_B: np.ndarray, row_B: np.ndarray, name: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([datasets[t].columns[name][r] for t, r in zip(task_B, row_B, strict=True)]))


def _weights(datasets: Sequence[TaskDataset], task_B: np.ndarray, row_B: np.ndarray) -> torch.Tensor:
    weight_B = np.ones(len(task_B), np.float32)
    for task in np.unique(task_B):
        there = task_B == task
        weight_B[there] = datasets[task].relative_weights(row_B[there])
    return torch.from_numpy(weight_B)

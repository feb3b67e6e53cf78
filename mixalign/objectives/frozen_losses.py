"""Losses of a frozen model, from its log-probabilities of the rows."""

import numpy as np
import torch

from mixalign.data.dataset import TaskDataset
from mixalign.objectives.base import Objective
from mixalign.types import Batch

__all__ = ["frozen_losses"]

CHUNK = 4096  # rows whose losses are computed together


def frozen_losses(objective: Objective, dataset: TaskDataset, logp_NS: np.ndarray, task: int) -> np.ndarray:
    """A frozen model's loss on each row (N,), float32, from its log-probabilities and the reference's.

    Args:
        objective: with the settings of every task.
        task: index of the dataset's task among them.
    """
    parts = [
        _losses(objective, dataset, logp_NS, task, start, min(start + CHUNK, len(dataset)))
        for start in range(0, len(dataset), CHUNK)
    ]
    return np.concatenate([np.zeros(0, np.float32), *parts])


def _losses(
    objective: Objective, dataset: TaskDataset, logp_NS: np.ndarray, task: int, start: int, stop: int
) -> np.ndarray:
    batch = Batch(
        task_B=torch.full((stop - start,), task),
        num_tokens_BS=torch.from_numpy(dataset.num_tokens(start, stop).astype(np.float32)),
    )
    if "label" in dataset.columns:
        batch["label_B"] = torch.tensor(dataset.columns["label"][start:stop])
    if "weight" in dataset.columns:
        batch["weight_B"] = torch.from_numpy(dataset.relative_weights(slice(start, stop)))
    if objective.uses_reference:
        batch["reference_logp_BS"] = torch.tensor(dataset.columns["reference_logp"][start:stop])
    return objective.scores(torch.tensor(logp_NS[start:stop]), batch)["loss"].numpy()

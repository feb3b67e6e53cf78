"""Losses of a frozen model, from its log-probabilities of the rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mixalign.data.dataset import TaskDataset
from mixalign.losses.kto import kl_estimate
from mixalign.objectives.base import Objective
from mixalign.types import Batch

__all__ = ["frozen_losses", "frozen_scores"]

CHUNK = 4096  # rows whose losses are computed together


def frozen_losses(objective: Objective, dataset: TaskDataset, logp_NS: np.ndarray, task: int) -> np.ndarray:
    """A frozen model's loss on each row (N,), float32, from its log-probabilities and the reference's.

    Args:
        objective: with the settings of every task.
        task: index of the dataset's task among them.
    """
    return frozen_scores(objective, dataset, logp_NS, task).get("loss", np.zeros(0, np.float32))


def frozen_scores(objective: Objective, dataset: TaskDataset, logp_NS: np.ndarray, task: int) -> dict[str, np.ndarray]:
    """All that the objective says of a frozen model by its log-probabilities, such as loss and margin (N,); see above.

    Empty where there is no row.
    """
    spans = [(start, min(start + CHUNK, len(dataset))) for start in range(0, len(dataset), CHUNK)]
    common = _common(objective, dataset, logp_NS, task, spans)
    parts: dict[str, list[np.ndarray]] = {}
    for start, stop in spans:
        batch = _batch(objective, dataset, task, start, stop) | common
        for name, value_B in objective.scores(torch.tensor(logp_NS[start:stop]), batch).items():
            parts.setdefault(name, []).append(value_B.numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def _common(
    objective: Any, dataset: TaskDataset, logp_NS: np.ndarray, task: int, spans: Sequence[tuple[int, int]]
) -> Batch:
    """What the losses of all rows of the table have in common: KTO's KL."""
    if objective.form != "mismatched" or not spans:
        return Batch()
    sums_2K = torch.zeros(2, task + 1, dtype=torch.float64)
    for start, stop in spans:
        batch = _batch(objective, dataset, task, start, stop)
        sums_2K += objective.kl_sums(torch.tensor(logp_NS[start:stop]), batch, task + 1)
    return Batch(kl_K=kl_estimate(sums_2K))


def _batch(objective: Objective, dataset: TaskDataset, task: int, start: int, stop: int) -> Batch:
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
    return batch

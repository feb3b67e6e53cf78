"""One pass of one frozen model over the rows of a task."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mixalign.data.collate import Layout, collate
from mixalign.data.dataset import TaskDataset
from mixalign.data.loader import EvalLoader
from mixalign.models.forward import score_completions
from mixalign.models.precision import autocast
from mixalign.objectives.base import Objective
from mixalign.scoring.table import ScoreTable
from mixalign.types import Batch, on_device

__all__ = ["score_rows", "frozen_losses"]

CHUNK = 4096  # rows whose losses are computed together


@torch.inference_mode()
def score_rows(
    model: nn.Module,
    dataset: TaskDataset,
    recipe: Mapping[str, Any],
    batch_size: int = 64,
    layout: Layout = collate,
    precision: str = "32-true",
    on_batch: Callable[[int], None] = lambda rows: None,
) -> ScoreTable:
    """Scores every row, longest first, in evaluation mode; the table has the order of the data set.

    Args:
        recipe: stored in the table; see ScoreTable.
        batch_size: rows of one forward pass.
        layout: makes a batch of rows.
        precision: Lightning's, as in training: the difference of two models is then not one of rounding.
        on_batch: called with the number of rows done, for a progress bar.
    """
    model.eval()
    device = next(model.parameters()).device
    logp_NS = np.empty((len(dataset), dataset.num_completions))
    loader = EvalLoader([dataset], batch_size, layout=layout)
    for number, batch in enumerate(loader):
        with autocast(device, precision):
            logp_BS = score_completions(model, on_device(batch, device)).logp_BS
        row_B = loader.row_N[number * batch_size : (number + 1) * batch_size]
        logp_NS[row_B] = logp_BS.cpu().double().numpy()
        on_batch(len(row_B))
    return ScoreTable(dataset.row_id_N, logp_NS, recipe)


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
    if objective.uses_reference:
        batch["reference_logp_BS"] = torch.tensor(dataset.columns["reference_logp"][start:stop])
    return objective.scores(torch.tensor(logp_NS[start:stop]), batch)["loss"].numpy()

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
from mixalign.objectives.base import Objective
from mixalign.scoring.table import ScoreTable
from mixalign.types import Batch, on_device

__all__ = ["score_rows", "frozen_losses"]

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # precisions that autocast


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
    """Scores every row, longest first, in evaluation mode; rows with the same content are one entry.

    Args:
        recipe: stored in the table; see ScoreTable.
        batch_size: rows of one forward pass.
        layout: makes a batch of rows.
        precision: Lightning's, as in training: the difference of two models is then not one of rounding.
        on_batch: called with the number of rows done, for a progress bar.
    """
    model.eval()
    device = next(model.parameters()).device
    row_ids, logps = [], []
    for batch in EvalLoader([dataset], batch_size, layout=layout):
        with torch.autocast(device.type, MIXED.get(precision, torch.bfloat16), enabled=precision in MIXED):
            logps.append(score_completions(model, on_device(batch, device)).logp_BS.cpu())
        row_ids.append(batch["row_id_B"])
        on_batch(len(batch["row_id_B"]))
    row_id_N, first_N = np.unique(torch.cat(row_ids).numpy(), return_index=True)
    return ScoreTable(row_id_N, torch.cat(logps).double().numpy()[first_N], recipe)


def frozen_losses(objective: Objective, dataset: TaskDataset, logp_NS: np.ndarray, task: int) -> np.ndarray:
    """A frozen model's loss on each row (N,), float32, from its log-probabilities and the reference's.

    Args:
        objective: with the settings of every task.
        task: index of the dataset's task among them.
    """
    batch = Batch(
        task_B=torch.full((len(dataset),), task),
        num_tokens_BS=torch.from_numpy(dataset.num_tokens_NS.astype(np.float32)),
    )
    if objective.uses_reference:
        batch["reference_logp_BS"] = torch.from_numpy(dataset.columns["reference_logp"])
    return objective.scores(torch.from_numpy(logp_NS), batch)["loss"].numpy()

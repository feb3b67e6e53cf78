"""One pass of one frozen model over the rows of a task."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mixalign.data.batches.collate import Layout, collate
from mixalign.data.batches.loader import EvalLoader
from mixalign.data.dataset import TaskDataset
from mixalign.frozen.table import ScoreTable
from mixalign.models.blocks import in_blocks
from mixalign.models.forward import score_completions
from mixalign.models.precision import autocast, cast_weights
from mixalign.together.agree import rank, total, world
from mixalign.types import on_device

__all__ = ["score_on_ranks", "score_rows"]


@torch.no_grad()  # in inference mode autocast would convert the weights again for every batch
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
        precision: Lightning's, as in training: the difference of two models is then not one of rounding. The weights
            are converted in place where it is theirs.
        on_batch: called with the number of rows done, for a progress bar.
    """
    cast_weights(model, precision).eval()
    device = next(model.parameters()).device
    logp_NS = np.empty((len(dataset), dataset.num_completions))
    loader = EvalLoader([dataset], batch_size, layout=layout)
    with autocast(device, precision), in_blocks(model):
        for number, batch in enumerate(loader):
            logp_BS = score_completions(model, on_device(batch, device)).logp_BS
            row_B = loader.row_N[number * batch_size : (number + 1) * batch_size]
            logp_NS[row_B] = logp_BS.cpu().double().numpy()
            on_batch(len(row_B))
    return ScoreTable(dataset.row_id_N, logp_NS, recipe)


def score_on_ranks(
    model: nn.Module,
    dataset: TaskDataset,
    recipe: dict[str, Any],
    batch_size: int,
    layout: Layout,
    precision: str,
    on_batch: Callable[[int], None] = lambda rows: None,
) -> ScoreTable:
    """`score_rows` by all processes, each with a share of the batches; every one gets the whole table.

    The batches are those that one process would make, so that the numbers do not depend on how many there are.
    """
    if world() == 1:
        return score_rows(model, dataset, recipe, batch_size, layout, precision, on_batch)
    order_N = np.argsort(-dataset.length_N, kind="stable")
    batches = np.split(order_N, range(batch_size, len(order_N), batch_size))
    own_M = np.concatenate([order_N[:0], *batches[rank() :: world()]])
    part = score_rows(
        model, _rows(dataset, own_M), {}, batch_size, layout, precision, lambda rows: on_batch(rows * world())
    )
    logp_NS = torch.zeros(len(dataset), dataset.num_completions, dtype=torch.float64)
    logp_NS[own_M] = torch.from_numpy(part.logp_NS)
    return ScoreTable(dataset.row_id_N, total(logp_NS).numpy(), recipe)


def _rows(dataset: TaskDataset, row_M: np.ndarray) -> TaskDataset:
    """Some rows of a table, in a given order, without its columns."""
    arrays = dataset.length_NS[row_M], dataset.row_id_N[row_M], dataset.start_N[np.append(row_M, -1)]
    return TaskDataset(dataset.task, dataset.ids_T, dataset.supervised_T, *arrays)

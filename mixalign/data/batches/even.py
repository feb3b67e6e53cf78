"""As many evaluation batches on every process."""

from collections.abc import Iterator, Sequence
from math import ceil

import numpy as np
import torch

from mixalign.data.batches.collate import Layout
from mixalign.data.batches.loader import EvalLoader
from mixalign.data.dataset import TaskDataset
from mixalign.types import Batch

__all__ = ["EvenBatches", "even_loader", "is_filler"]


class EvenBatches:
    """An evaluation loader that gives every process as many batches; the last ones may be fillers, which count nothing.

    A process without a batch would skip a validation at whose end the others wait for it, and gathering spread
    parameters takes all processes at every batch. Lightning does not even out loaders that differ in length
    (https://github.com/Lightning-AI/pytorch-lightning/issues/3325).

    Args:
        loader: this process's part of the rows.
        world: number of processes.
    """

    def __init__(self, loader: EvalLoader, world: int) -> None:
        self.loader = loader
        self.longest = ceil(ceil(sum(map(len, loader.datasets)) / world) / loader.batch_size)

    def __len__(self) -> int:
        return self.longest

    def __iter__(self) -> Iterator[Batch]:
        yield from self.loader
        for _ in range(self.longest - len(self.loader)):
            yield self._filler()

    def _filler(self) -> Batch:
        datasets = self.loader.datasets
        task = next(k for k, table in enumerate(datasets) if len(table))
        batch = self.loader.layout(datasets, np.array([task]), np.array([0]))
        return batch | Batch(count_K=torch.zeros(len(datasets), dtype=torch.float64))


def even_loader(
    datasets: Sequence[TaskDataset], batch_size: int, rank: int, world: int, layout: Layout
) -> EvalLoader | EvenBatches:
    """Every row of every task once, shared out over processes, in as many batches on each of them."""
    loader = EvalLoader(datasets, batch_size, rank, world, layout)
    return loader if world == 1 else EvenBatches(loader, world)


def is_filler(batch: Batch) -> bool:
    """Whether no sample of the batch counts."""
    return "count_K" in batch and not batch["count_K"].any()

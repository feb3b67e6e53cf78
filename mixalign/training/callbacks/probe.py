"""What probes have in common: when they measure, and the rows that they measure on."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import lightning as L
import numpy as np
from torch import Tensor

from mixalign.data.batches.collate import Layout
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.mixers.base import Mixer
from mixalign.mixers.outside import as_rule
from mixalign.training import sharding
from mixalign.types import Batch

__all__ = ["Probe", "task_batches", "task_rows", "weighted"]


class Probe(L.Callback):
    """Measures the model after the optimizer steps that a mixer asks for, and leaves the training as it was.

    It comes before Mixing in the list of callbacks, which hands what was measured to the mixer. A subclass gives
    `measures` and `measure`.

    Args:
        mixer: the rule; its `asks(step)` says when.
        seed: of the rows that are drawn.
        rows: of each task, over all ranks, for a gradient or a trial step.
        validation_rows: of each task, over all ranks, for a validation between steps.
        weights: regular expression that the names of probed weights match; None: all that are trained.
    """

    measures: ClassVar[frozenset[str]]  # fields of MixSignal

    def __init__(
        self, mixer: Mixer, seed: int = 0, rows: int = 8, validation_rows: int = 64, weights: str | None = None
    ) -> None:
        self.mixer, self.seed, self.weights = as_rule(mixer), seed, weights
        self.rows, self.validation_rows = rows, validation_rows

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if sharding.is_sharded(pl_module):
            raise MixalignError(
                "This mixer probes the model between steps, which it cannot do when weights are spread over "
                "processes. Take `trainer=ddp`, or another mixer."
            )

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        ends_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if ends_step and self.mixer.asks(trainer.global_step):
            pl_module.probed |= self.measure(trainer, pl_module)

    def measure(self, trainer: Any, pl_module: Any) -> dict[str, Tensor]:
        """Fields of MixSignal, float64 on the CPU, the same on all ranks."""
        raise NotImplementedError


def task_rows(
    datasets: Sequence[TaskDataset], rows: int, key: Sequence[int], layout: Layout, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """One batch of each task, of this rank's share of as many rows, drawn without replacement.

    Args:
        rows: of each task over all ranks; all of a task that has fewer.
        key: names the draw, such as (seed, step): the same key gives the same rows.
    """
    for task, dataset in enumerate(datasets):
        row_B = _draw(dataset, rows, (*key, task))[rank::world]
        yield layout(datasets, np.full(len(row_B), task), row_B)


def task_batches(
    datasets: Sequence[TaskDataset],
    rows: int,
    key: Sequence[int],
    layout: Layout,
    size: int,
    rank: int = 0,
    world: int = 1,
) -> Iterator[list[Batch]]:
    """The rows of `task_rows` in batches of at most `size` rows; an empty list where this rank has no row of a task."""
    for task, dataset in enumerate(datasets):
        row_B = _draw(dataset, rows, (*key, task))[rank::world]
        parts = (row_B[start : start + size] for start in range(0, len(row_B), size))
        yield [layout(datasets, np.full(len(part_B), task), part_B) for part_B in parts]


def weighted(value_B: Tensor, batch: Batch) -> Tensor:
    """The values, each times what its row counts in means of its task, where rows have weights."""
    return value_B * batch["weight_B"] if "weight_B" in batch else value_B


def _draw(dataset: TaskDataset, rows: int, key: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(key).choice(len(dataset), min(rows, len(dataset)), replace=False)

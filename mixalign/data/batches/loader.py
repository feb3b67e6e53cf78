"""Sized, stateful iterables over batches, in the main process.

They are no torch DataLoaders on purpose: with workers, new weights reach the model `workers * prefetch` batches
late, and a resume in the middle of an epoch loses the batches in flight. A row here is a slice of an array.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mixalign.checks import check_number
from mixalign.data.batches.collate import Layout, Sides, collate
from mixalign.data.batches.sampler import Draw, MixtureSampler
from mixalign.data.dataset import TaskDataset
from mixalign.types import Batch

__all__ = ["EvalLoader", "MixtureLoader"]


class MixtureLoader:
    """The micro-batches of one rank, `accumulate` of them for each of `steps` global draws.

    Args:
        rank: this process; it takes every `world`-th micro-batch of a global draw.
        world: number of processes.
        layout: makes a batch of rows.
        sides: which completions of each row a micro-batch has.
        ahead: which of them the first micro-batch of a step brings along of all this rank's rows of the step, as
            `ahead`; none: it brings nothing.
    """

    def __init__(
        self,
        datasets: Sequence[TaskDataset],
        sampler: MixtureSampler,
        steps: int,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        layout: Layout = collate,
        *,
        sides: Sides = None,
        ahead: tuple[int, ...] = (),
    ):
        self.datasets, self.sampler, self.layout = datasets, sampler, layout
        self.sides, self.ahead = sides, ahead
        self.steps, self.accumulate, self.rank, self.world = steps, accumulate, rank, world

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[Batch]:
        while self.sampler.step < self.steps:
            draw = self.sampler.draw()
            count_K = torch.from_numpy(draw.count_K.astype(np.float64))
            parts = self._deal(draw)[self.rank :: self.world]
            ahead = Batch(ahead=[self._batch(draw, mine, self.ahead) for mine in parts]) if self.ahead else Batch()
            for mine in parts:
                batch = self._batch(draw, mine, self.sides) | ahead
                ahead = Batch()
                yield batch | Batch(count_K=count_K, draw_prob_B=torch.from_numpy(draw.prob_B[mine]))

    def _batch(self, draw: Draw, mine: np.ndarray, sides: Sides) -> Batch:
        chosen = self.datasets, draw.task_B[mine], draw.row_B[mine]
        return self.layout(*chosen) if sides is None else self.layout(*chosen, sides)

    def _deal(self, draw: Draw) -> np.ndarray:
        """Places in the draw of each micro-batch (parts, rows), dealt out so that all have about as many tokens."""
        parts = self.world * self.accumulate
        length_B = np.empty(len(draw.row_B), np.int64)
        for task in np.unique(draw.task_B):
            there = draw.task_B == task
            length_B[there] = self.datasets[task].lengths(draw.row_B[there])
        rounds = np.argsort(-length_B, kind="stable").reshape(-1, parts)
        rounds[1::2] = rounds[1::2, ::-1]  # back and forth, so that nobody always gets the longest of a round
        return rounds.T

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state)


class EvalLoader:
    """Every row of every task once, the longest first, shared out over ranks."""

    def __init__(
        self,
        datasets: Sequence[TaskDataset],
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        layout: Layout = collate,
    ):
        check_number("eval_batch_size", batch_size, 1, whole=True)
        self.datasets, self.batch_size, self.layout = datasets, batch_size, layout
        task_N = np.repeat(np.arange(len(datasets)), [len(d) for d in datasets])
        row_N = np.concatenate([np.arange(0), *(np.arange(len(d)) for d in datasets)])
        length_N = np.concatenate([np.arange(0), *(d.length_N for d in datasets)])
        order = np.argsort(-length_N, kind="stable")[rank::world]
        self.task_N, self.row_N = task_N[order], row_N[order]

    def __len__(self) -> int:
        return -(-len(self.task_N) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.task_N), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self.layout(self.datasets, self.task_N[part], self.row_N[part])

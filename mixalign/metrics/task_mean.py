"""Sums and counts by task, on the device, across ranks and micro-batches."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["TaskMean", "sum_dtype"]


def sum_dtype(device: torch.device | str) -> torch.dtype:
    """The widest float of a device."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


class TaskMean(Metric):
    """Means of several per-sample quantities over the samples of each task.

    Sums and counts are added up, over batches and at `compute` over ranks, and divided once: a mean of
    per-rank means would weigh ranks with few samples of a task too much.

    Args:
        names: the quantities, Q of them.
        num_tasks: K.
        dtype: of the sums; float64 makes them equal on one rank and on many. Apple's GPUs have none.
    """

    full_state_update = False

    def __init__(self, names: Sequence[str], num_tasks: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.names = tuple(names)
        self.sum_QK: Tensor
        self.count_K: Tensor
        self.add_state("sum_QK", torch.zeros(len(names), num_tasks, dtype=dtype), dist_reduce_fx="sum")
        self.add_state("count_K", torch.zeros(num_tasks, dtype=dtype), dist_reduce_fx="sum")

    def update(self, task_B: Tensor, **value_B: Tensor) -> None:
        """Adds one value of every quantity for each sample."""
        rows = torch.stack([value_B[name].detach().to(self.sum_QK.dtype) for name in self.names])
        self.sum_QK.index_add_(1, task_B, rows)
        self.count_K.index_add_(0, task_B, torch.ones_like(rows[0]))

    def compute(self) -> Tensor:
        """Counts and means in one tensor (1 + Q, K); nan for a task without a sample."""
        return torch.cat([self.count_K[None], self.sum_QK / self.count_K])

    def by_name(self) -> dict[str, Tensor]:
        """`compute` over all ranks, as float64 on the CPU: `count` and every quantity, each (K,).

        torchmetrics turns results of one element into scalars, so that K = 1 would lose its axis in `compute`.
        """
        return dict(zip(("count", *self.names), self.compute().cpu().double(), strict=True))

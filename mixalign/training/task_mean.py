"""Sums, counts and weights by task, on the device, across ranks and micro-batches."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

__all__ = ["OnItsWay", "TaskMean"]


class TaskMean(Metric):
    """Means of several per-sample quantities over the samples of each task.

    Sums and counts are added up, over batches and at `compute` over ranks, and divided once: a mean of
    per-rank means would weigh ranks with few samples of a task too much. Where samples have weights, a mean is
    `sum(w x) / sum(w)` over all that were added up; a task whose samples all have weight 0 has none.

    Args:
        names: the quantities, Q of them.
        num_tasks: K.
        dtype: of the sums; float64 makes them equal on one rank and on many. Apple's GPUs have none.
    """

    full_state_update = False

    def __init__(self, names: Sequence[str], num_tasks: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(dist_sync_fn=_summed_over_ranks)
        self.names = ("count", "weight", *names)
        self.sum_QK: Tensor  # the first row counts, the second adds up weights
        self.add_state("sum_QK", torch.zeros(len(self.names), num_tasks, dtype=dtype), dist_reduce_fx="sum")

    def update(self, task_B: Tensor, weight_B: Tensor | None = None, **value_B: Tensor) -> None:
        """Adds one value of every quantity for each sample; without weights each counts 1."""
        rows = [value_B[name].detach().to(self.sum_QK.dtype) for name in self.names[2:]]
        one_B = torch.ones(task_B.shape, dtype=self.sum_QK.dtype, device=task_B.device)
        if weight_B is None:
            rows = [one_B, one_B, *rows]
        else:
            wide_B = weight_B.to(one_B)
            rows = [one_B, wide_B, *(wide_B * row for row in rows)]
        self.sum_QK.index_add_(1, task_B, torch.stack(rows))

    def compute(self) -> Tensor:
        """Counts, sums of weights and means in one tensor (2 + Q, K); nan for a task without a sample."""
        return torch.cat([self.sum_QK[:2], self.sum_QK[2:] / self.sum_QK[1]])

    def send(self) -> "OnItsWay":
        """Starts to bring the numbers of all ranks to the host, without waiting for them."""
        return OnItsWay(self.names, self.compute())

    def by_name(self) -> dict[str, Tensor]:
        """The numbers of all ranks; see `OnItsWay.by_name`."""
        return self.send().by_name()


class OnItsWay:
    """Numbers of a GPU that are copied to the host while it goes on with other work.

    Whoever asks for them waits for what was queued before the copy, and for nothing after it: measured after a
    forward pass, they arrive while the backward pass runs.
    """

    def __init__(self, names: Sequence[str], value_QK: Tensor) -> None:
        self.names, self._host, self._done = names, value_QK, None
        if value_QK.is_cuda:
            self._host = torch.empty(value_QK.shape, dtype=value_QK.dtype, pin_memory=True)
            self._host.copy_(value_QK, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record()

    def by_name(self) -> dict[str, Tensor]:
        """`count`, every quantity, and where samples have weights their sum `weight`; each (K,), float64 on the CPU."""
        if self._done is not None:
            self._done.synchronize()
        # torchmetrics turns results of one element into scalars, so K = 1 must not lose its axis
        found = dict(zip(self.names, self._host.cpu().double().view(len(self.names), -1), strict=True))
        if found["weight"].equal(found["count"]):
            del found["weight"]
        return found


def _summed_over_ranks(sums: Tensor, group: object = None) -> list[Tensor]:
    """One sum over ranks in place of torchmetrics' gathering, which waits for a barrier and compares shapes."""
    sums = sums.clone()
    dist.all_reduce(sums, group=group)
    return [sums]

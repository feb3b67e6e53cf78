"""Gradients of every task between steps: which tasks agree, and how much one row's gradient differs from another's.

d is the number of probed weights.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from mixalign.checks import check_number, check_pattern
from mixalign.errors import MixalignError
from mixalign.mixers.base import Mixer
from mixalign.training.ahead import together
from mixalign.training.callbacks.probe import Probe, task_batches, weighted
from mixalign.training.lightning_quirks import gradient_scaler
from mixalign.types import Batch, sum_dtype

__all__ = ["GradientProbe", "products", "square_and_noise"]

CHUNK = 1 << 20  # weights whose gradients are multiplied at once, in the widest float


class GradientProbe(Probe):
    """Measures products of the tasks' mean gradients, and the variance of one row's gradient.

    Each task's rows are dealt out to two halves, of h1 and h2 rows, with mean gradients g1 and g2 of the objective's
    loss. Rows are taken as independent draws of their task; then every number is unbiased:

    - `gradient_KK` off the diagonal: `<g_i, g_j>`, of the means over all rows of the tasks;
    - on the diagonal: `<g1, g2>`, where the square of the mean over all rows would count the rows' noise as well;
    - `noise_K`: `|g1 - g2|^2 / (1 / h1 + 1 / h2)`, which is `h |g1 - g2|^2 / 2` for even halves.

    The loss of a row with a weight is its loss times that over the mean weight of the task's table.

    A task of a single row is that row: its diagonal is the square of the row's gradient, and its noise is 0. Where a
    task's gradient is not finite, its entries are nan.

    Weights, `.grad` fields, optimizer and random state stay as they are, and DDP's hooks on gradients are not called.
    The gradients take K x d numbers of 4 bytes on the device, and the task at work some 4 x d more; `weights` lowers
    d. It takes a forward and a backward pass over `rows` rows of each task, in training's micro-batches, on parts of
    the rows on each process.

    Raises:
        MixalignError: when `rows` is below 2, or `weights` is no regular expression or matches no trained weight.
    """

    measures: ClassVar[frozenset[str]] = frozenset({"gradient_KK", "noise_K"})

    def __init__(
        self, mixer: Mixer, seed: int = 0, rows: int = 8, validation_rows: int = 64, weights: str | None = None
    ) -> None:
        super().__init__(mixer, seed, rows, validation_rows, weights)
        check_number("probe.rows", rows, 2, whole=True, why="Gradients are measured on two halves of them.")
        check_pattern("probe.weights", weights)
        self._pattern = re.compile(weights or "")

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_fit_start(trainer, pl_module)
        self._chosen(pl_module.model)

    def measure(self, trainer: Any, pl_module: Any) -> dict[str, Tensor]:
        device, train, weights = pl_module.device, trainer.datamodule.train, self._chosen(pl_module.model)
        mean_Kd = torch.zeros(len(train), sum(w.numel() for w in weights), device=device)
        square_2K = torch.zeros(2, len(train), dtype=sum_dtype(device), device=device)
        with isolate_rng():
            for task, halves in enumerate(zip(*(self._batches(trainer, half) for half in (0, 1)), strict=True)):
                half_2d = torch.zeros(2, mean_Kd.shape[1], device=device)
                halves = _together(trainer, pl_module, halves)
                for half_d, batches in zip(half_2d, halves, strict=True):
                    _add_gradients(half_d, trainer, pl_module, weights, batches)
                half_2d = trainer.strategy.reduce(half_2d, reduce_op="sum")
                num_rows = min(self.rows, len(train[task]))
                mean_Kd[task] = half_2d.sum(0) / num_rows
                square_2K[:, task] = square_and_noise(half_2d, (num_rows - num_rows // 2, num_rows // 2))
        square_K, noise_K = square_2K
        measured = torch.cat([products(mean_Kd, square_K), noise_K[None]])
        measured = torch.where(measured.isfinite(), measured, torch.nan)
        # those of the first rank, because another kind of device may round otherwise
        first = measured if trainer.global_rank == 0 else torch.zeros_like(measured)
        measured = trainer.strategy.reduce(first, reduce_op="sum").to("cpu", torch.float64)
        return {"gradient_KK": measured[:-1], "noise_K": measured[-1]}

    def _chosen(self, model: nn.Module) -> list[nn.Parameter]:
        """The probed weights."""
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if chosen := [weight for name, weight in trained.items() if self._pattern.search(name)]:
            return chosen
        some = list(trained)[:: max(1, len(trained) // 4)]
        raise MixalignError(
            f"`probe.weights` is {self.weights!r}, which is in no name of the {len(trained)} trained weights. Take a "
            f"regular expression that is; some names are `{'`, `'.join(some)}`."
        )

    def _batches(self, trainer: Any, half: int) -> Iterator[list[Batch]]:
        """This rank's rows of one half of each task's rows: every other row of all ranks together."""
        data, rank, world = trainer.datamodule, trainer.global_rank, trainer.world_size
        size = data.sampler.batch_size // (world * trainer.accumulate_grad_batches)
        drawn = (data.train, self.rows, (self.seed, trainer.global_step), data.layout, size)
        return task_batches(*drawn, 2 * rank + half, 2 * world)


def _together(trainer: Any, pl_module: Any, halves: Sequence[list[Batch]]) -> tuple[list[Batch], list[Batch]]:
    """The batches of both halves, with what all their losses have in common."""
    first, second = halves
    with trainer.precision_plugin.forward_context():
        found = together(pl_module, [*first, *second])
    return found[: len(first)], found[len(first) :]


def _add_gradients(
    sum_d: Tensor, trainer: Any, pl_module: Any, weights: Sequence[nn.Parameter], batches: Sequence[Batch]
) -> None:
    """Adds the gradient of the sum of all losses of some batches."""
    parts = torch.split(sum_d, [weight.numel() for weight in weights])
    scaler = gradient_scaler(trainer)
    scale = 1.0 if scaler is None else scaler.get_scale()  # else small gradients are lost in float16
    for batch in batches:
        with torch.enable_grad(), trainer.precision_plugin.forward_context():
            loss = weighted(pl_module.scores(batch)["loss"], batch).sum()
        grads = torch.autograd.grad(loss * scale, weights, allow_unused=True, materialize_grads=True)
        for part, grad in zip(parts, grads, strict=True):
            part.add_(grad.flatten(), alpha=1 / scale)


def square_and_noise(half_2d: Tensor, counts: tuple[int, int]) -> Tensor:
    """Square of a task's mean gradient, and variance of one row's gradient around it, both unbiased (2,).

    Args:
        half_2d: gradients of the summed losses of two halves of independent rows.
        counts: rows of each half; none in the second one means that the task has no other row.
    """
    if counts[1] == 0:
        square = _dot(half_2d[0], half_2d[0])
        return torch.stack([square, torch.zeros_like(square)])
    first_d, second_d = half_2d[0] / counts[0], half_2d[1] / counts[1]
    square = _dot(first_d, second_d)
    gap_d = first_d.sub_(second_d)
    return torch.stack([square, _dot(gap_d, gap_d) / (1 / counts[0] + 1 / counts[1])])


def products(mean_Kd: Tensor, square_K: Tensor) -> Tensor:
    """Products of the tasks' mean gradients (K, K), with the given squares on the diagonal; in their float."""
    parts = (part_Kd.to(square_K.dtype) for part_Kd in torch.split(mean_Kd, CHUNK, dim=1))
    product_KK = torch.stack([part_Kd @ part_Kd.T for part_Kd in parts]).sum(0)
    product_KK.diagonal().copy_(square_K)
    return product_KK


def _dot(a_d: Tensor, b_d: Tensor) -> Tensor:
    """Inner product, in the widest float of the device."""
    dtype = sum_dtype(a_d.device)
    parts = zip(torch.split(a_d, CHUNK), torch.split(b_d, CHUNK), strict=True)
    return torch.stack([a.to(dtype) @ b.to(dtype) for a, b in parts]).sum()

"""The loss on validation rows between two steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from mixalign.checks import check_number
from mixalign.errors import MixalignError
from mixalign.training.ahead import together
from mixalign.training.callbacks.probe import Probe, task_batches, weighted
from mixalign.types import sum_dtype

__all__ = ["ValidationProbe"]


class ValidationProbe(Probe):
    """Measures `probe_loss_K`: the mean loss of each task on validation rows that are the same at every step.

    The rows are drawn once, from the seed; a task that has fewer than `validation_rows` gives all of them. Two
    measurements of one run therefore differ by what the model learned in between, and not by the draw.
    """

    measures: ClassVar[frozenset[str]] = frozenset({"probe_loss_K"})

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_fit_start(trainer, pl_module)
        check_number("probe.validation_rows", self.validation_rows, 1, whole=True)
        rows_K = [len(d) for d in trainer.datamodule.validation] or [0] * len(pl_module.tasks)
        without = [f"`{task}`" for task, rows in zip(pl_module.tasks, rows_K, strict=True) if not rows]
        if without:
            raise MixalignError(
                f"This mixer reads validation losses between steps, but task {', '.join(without)} has no validation "
                "rows. Give it some (`data.validation_fraction`), or take another mixer."
            )

    @torch.no_grad()
    def measure(self, trainer: Any, pl_module: Any) -> dict[str, Tensor]:
        data, device = trainer.datamodule, pl_module.device
        drawn = (data.validation, self.validation_rows, (self.seed,), data.layout, data.eval_batch_size)
        sum_2K = torch.zeros(2, len(data.validation), dtype=sum_dtype(device), device=device)  # of losses, of weights
        with isolate_rng(), _evaluating(pl_module), trainer.precision_plugin.forward_context():
            for task, batches in enumerate(task_batches(*drawn, trainer.global_rank, trainer.world_size)):
                for batch in together(pl_module, batches):
                    loss_B = weighted(pl_module.scores(batch)["loss"].to(sum_2K.dtype), batch)
                    sum_2K[0, task] += loss_B.sum()
                    sum_2K[1, task] += weighted(torch.ones_like(loss_B), batch).sum()
        sum_K, weight_K = trainer.strategy.reduce(sum_2K, reduce_op="sum").to("cpu", torch.float64)
        return {"probe_loss_K": sum_K / weight_K}


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and then for each part the mode that it had."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode

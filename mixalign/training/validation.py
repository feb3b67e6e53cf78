"""The means by task of one pass over validation rows."""

from typing import Any

import torch
from torch import Tensor

from mixalign.data.batches.even import is_filler
from mixalign.objectives.base import Scores
from mixalign.training.ahead import Look, kl_of, with_kl, without_inputs
from mixalign.training.task_mean import TaskMean
from mixalign.types import Batch, sum_dtype

__all__ = ["Validation", "summary_of"]


class Validation:
    """Adds up scores of batches, on all processes.

    Args:
        module: an AlignModule.
    """

    def __init__(self, module: Any) -> None:
        names = ["loss", *module.objective.metrics, "specialist_loss", "gap", "excess"]
        self.module = module
        self.sums = TaskMean(names, len(module.tasks), sum_dtype(module.device)).to(module.device)
        self.waiting: Look = []  # rows whose losses are known when all rows were read

    def add(self, batch: Batch) -> None:
        """Reads a batch; a filler is there only for the forward pass, which takes all processes."""
        if self.module.reads_kl:
            seen = self.module.logp(batch), without_inputs(batch)
            self.waiting += [] if is_filler(batch) else [seen]
            return
        scores = self.module.scores(batch)
        if not is_filler(batch):
            self._update(scores, batch)

    def _update(self, scores: Scores, batch: Batch) -> None:
        specialist_B = batch.get("specialist_loss_B", torch.full_like(scores["loss"], torch.nan))
        gap_B = scores["loss"] - specialist_B
        more = {"specialist_loss": specialist_B, "gap": gap_B, "excess": gap_B.clamp_min(0)}
        self.sums.update(batch["task_B"], batch.get("weight_B"), **scores, **more)

    def means(self) -> dict[str, Tensor]:
        """Of each quantity (K,), float64 on the CPU, and `count`; those of excess only where specialists' are known."""
        if self.module.reads_kl:
            for logp_BS, batch in with_kl(self.waiting, kl_of(self.module, self.waiting)):
                self._update(self.module.objective.scores(logp_BS, batch), batch)
            self.waiting = []
        means = self.sums.by_name()
        means.pop("weight", None)
        if means["specialist_loss"].isnan().all():
            means = {k: v for k, v in means.items() if k not in ("specialist_loss", "gap", "excess")}
        return means


def summary_of(means: dict[str, Tensor]) -> dict[str, float]:
    """Mean and worst task, by the names of SUMMARY and SUMMARY_OF_EXCESS."""
    summary = {"eval/mean_loss": means["loss"].mean(), "eval/worst_loss": means["loss"].max()}
    if "accuracy" in means:
        summary["eval/worst_accuracy"] = means["accuracy"].min()
    if "excess" in means:
        summary |= {"eval/worst_excess": means["excess"].max(), "eval/worst_gap": means["gap"].max()}
    return {name: float(value) for name, value in summary.items()}

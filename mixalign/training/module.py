"""The LightningModule: one model, one objective, and the weights that the mixture puts on its losses."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from mixalign.errors import MixalignError
from mixalign.losses.excess import Clip, clip_sample
from mixalign.metrics.task_mean import TaskMean, sum_dtype
from mixalign.objectives.base import Objective
from mixalign.training import sharding
from mixalign.training.schedule import learning_rate_factor
from mixalign.types import Batch

__all__ = ["AlignModule", "Optimizer"]


@dataclass(frozen=True)
class Optimizer:
    """AdamW and its schedule.

    Attributes:
        lr: peak learning rate.
        weight_decay, betas: AdamW's.
        schedule: `constant`, `linear` or `cosine`, the last two down to 0 at the last step.
        warmup_steps: optimizer steps of linear warm-up; below 1 it is a share of all steps.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them alone.
    """

    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "constant"
    warmup_steps: float = 10
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "warmup_steps", "max_grad_norm"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < inf:
                raise MixalignError(f"`optimizer.{name}` is {value!r}, but must be a number at least 0.")
        betas = self.betas if isinstance(self.betas, list | tuple) else ()
        if len(betas) != 2 or not all(_is_number(beta) and 0 <= beta < 1 for beta in betas):
            raise MixalignError(f"`optimizer.betas` is {self.betas!r}, but must be two numbers in [0, 1).")
        learning_rate_factor(self.schedule, self.warmup_steps, 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class AlignModule(L.LightningModule):
    """Descends on the weighted loss, or clipped excess loss, of every task.

    Args:
        model: a causal LM of transformers, with or without PEFT adapters.
        tasks: names of the K tasks.
        descends_on: `loss`, or `excess` over the specialists' losses, which must then be in the batches.
        clip: how excess is clipped; see `mixalign.losses.excess`.
        live_reference: computes `reference_logp_BS` of a batch when the batches do not carry cached scores.
        disable_dropout: as usual in DPO, where noise would make a pair's two scores disagree.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        tasks: list[str],
        optimizer: Optimizer,
        *,
        descends_on: str = "loss",
        clip: Clip = "none",
        live_reference: Callable[[Batch], Tensor] | None = None,
        disable_dropout: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.objective, self.tasks, self.settings = model, objective, tasks, optimizer
        self.descends_on, self.clip, self.live_reference = descends_on, clip, live_reference
        self.mix_loss_K: Tensor | None = None  # set by the Mixing callback; None is neutral
        self.evaluation: dict[str, Tensor] = {}  # per-task means (K,) of the last validation
        self.summary: dict[str, float] = {}  # its mean and worst task, as `eval/...`
        self.grad_norm: Tensor | None = None  # before clipping, of the last step
        self.probed: dict[str, Tensor] = {}  # what probes measured of the tasks after the last step
        self.measured: dict[str, Tensor] = {}  # what the last micro-batch showed of each sample, (B,)
        self.strict_loading = False  # checkpoints hold trained weights only
        if disable_dropout:
            for part in model.modules():
                if isinstance(part, nn.Dropout):
                    part.p = 0.0
        self._validation: TaskMean | None = None

    def configure_model(self) -> None:
        # the mesh comes from a strategy that spreads parameters; Lightning calls this before a validation once more
        if self.device_mesh is not None and not sharding.is_sharded(self):
            sharding.shard(self, self.model, self.device_mesh["data_parallel"])

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        scores = self._scores(batch)
        value_B = scores["loss"]
        measured = {"task_B": batch["task_B"], "draw_prob_B": batch["draw_prob_B"], "loss_B": value_B.detach()}
        if "specialist_loss_B" in batch:
            gap_B = scores["loss"] - batch["specialist_loss_B"]
            excess_B = clip_sample(gap_B, self.clip)
            measured["excess_B"] = excess_B.detach()
            if self.descends_on == "excess":
                value_B = excess_B * self._gate(gap_B, batch["task_B"])
        elif self.descends_on == "excess":
            raise MixalignError("This mixer descends on excess loss, but the batches carry no specialist losses.")
        self.measured = measured
        return {"loss": (self._weight(batch) * value_B).sum(), **measured}

    def _weight(self, batch: Batch) -> Tensor:
        """Weight of each sample of this micro-batch, (B,).

        The counts are those of the whole global batch. Lightning divides by the accumulated micro-batches and
        averages over ranks; both are undone here, so that the sum over all of them is the objective itself:
        `sum_i loss_i mean_i`, or the plain mean for a neutral mixture.
        """
        count_K, task_B = batch["count_K"], batch["task_B"]
        if self.mix_loss_K is None:
            weight_B = count_K.sum().reciprocal().expand(task_B.shape)
        else:
            weight_B = (self.mix_loss_K.to(count_K) / count_K)[task_B]
        return weight_B.float() * (self.trainer.world_size * self.trainer.accumulate_grad_batches)

    def _gate(self, gap_B: Tensor, task_B: Tensor) -> Tensor:
        """With `clip=task`, 0 for the samples of a task whose mean excess is not positive, else 1."""
        if self.clip != "task":
            return torch.ones_like(gap_B)
        sums_K = torch.zeros(len(self.tasks), device=gap_B.device).index_add_(0, task_B, gap_B.detach())
        return (self.trainer.strategy.reduce(sums_K, reduce_op="sum") > 0).float()[task_B]

    def _scores(self, batch: Batch) -> dict[str, Tensor]:
        if self.live_reference is not None and "reference_logp_BS" not in batch:
            batch["reference_logp_BS"] = self.live_reference(batch)
        return self.objective(self.model, batch)

    def on_validation_epoch_start(self) -> None:
        names = ["loss", *self.objective.metrics, "specialist_loss", "gap", "excess"]
        self._validation = TaskMean(names, len(self.tasks), sum_dtype(self.device)).to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        scores = self._scores(batch)
        if sharding.is_filler(batch):
            return  # there only for the forward pass, which takes all processes
        loss_B = scores["loss"]
        specialist_B = batch.get("specialist_loss_B", torch.full_like(loss_B, torch.nan))
        gap_B = loss_B - specialist_B
        assert self._validation is not None
        self._validation.update(
            batch["task_B"], **scores, specialist_loss=specialist_B, gap=gap_B, excess=gap_B.clamp_min(0)
        )

    def on_validation_epoch_end(self) -> None:
        assert self._validation is not None
        found = self._validation.by_name()
        if found["specialist_loss"].isnan().all():
            found = {k: v for k, v in found.items() if k not in ("specialist_loss", "gap", "excess")}
        self.evaluation = found
        summary = {"eval/mean_loss": found["loss"].mean(), "eval/worst_loss": found["loss"].max()}
        summary["eval/worst_accuracy"] = found["accuracy"].min()
        if "excess" in found:
            summary |= {"eval/worst_excess": found["excess"].max(), "eval/worst_gap": found["gap"].max()}
        if self.trainer.state.fn == "fit":  # else the final test rows would end the validation's curve
            self.summary = {k: float(v) for k, v in summary.items()}
        # for callbacks that watch them; TaskLog sends them to the loggers, at the step of the per-task numbers
        self.log_dict(self.summary, logger=False, rank_zero_only=True)

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        s = self.settings
        optimizer = torch.optim.AdamW(
            trained, s.lr, betas=(s.betas[0], s.betas[1]), weight_decay=s.weight_decay, fused=True
        )
        factor = learning_rate_factor(s.schedule, s.warmup_steps, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        # Trainer(gradient_clip_val=...) refuses a fused optimizer under mixed precision
        limit = self.settings.max_grad_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.grad_norm = sharding.whole(norm.detach())
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            # as a gradient scaler tells a fused optimizer: a step that is not finite leaves the weights as they are
            optimizer.found_inf = (~self.grad_norm.isfinite()).float()

    def on_fit_start(self) -> None:
        self.model.train()  # from_pretrained gives evaluation mode, and Lightning keeps what it finds

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

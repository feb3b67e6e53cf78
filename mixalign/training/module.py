"""The LightningModule: one model, one objective, and the weights that the mixture puts on its losses."""

from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from mixalign.data.batches.collate import Sides
from mixalign.errors import MixalignError
from mixalign.losses.excess import Clip, clip_sample
from mixalign.models.adapters import round_once
from mixalign.models.dropout import set_dropout
from mixalign.models.forward import score_completions
from mixalign.objectives.base import Objective
from mixalign.training import sharding
from mixalign.training.ahead import gate, gates_ahead, look_ahead
from mixalign.training.lightning_quirks import clip_gradients
from mixalign.training.optimizer import Optimizer
from mixalign.training.own_script import given, tasks_of
from mixalign.training.validation import Validation, summary_of
from mixalign.types import Batch

__all__ = ["AlignModule"]


class AlignModule(L.LightningModule):
    """Descends on the weighted loss, or clipped excess loss, of every task.

    Args:
        model: a causal LM of transformers, with or without PEFT adapters, which round once from then on.
        tasks: names of the K tasks; None takes those of the trainer's `MixtureData`.
        optimizer: AdamW and its schedule.
        descends_on: `loss`, or `excess` over specialists' losses in the batches; None: as the mixer has it, or `loss`.
        clip: how excess is clipped; see `mixalign.losses.excess`. None is as the mixer has it, or `none`.
        live_reference: computes `reference_logp_BS` of a batch when the batches do not carry cached scores.
        seed: of the dropout of adapters, in supervised training only: it parts a pair's scores. All other is off.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        tasks: list[str] | None = None,
        optimizer: Optimizer | None = None,
        *,
        descends_on: str | None = None,
        clip: Clip | None = None,
        live_reference: Callable[[Batch], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.objective = round_once(model), objective
        self.tasks, self.settings = tasks or [], given(optimizer)
        self.descends_on, self.clip, self.live_reference = descends_on or "loss", clip or "none", live_reference
        self.told = {"descends_on": descends_on, "clip": clip}  # the mixer says what is None
        self.mix_loss_K: Tensor | None = None  # set by the Mixing callback; None is neutral
        self.evaluation: dict[str, Tensor] = {}  # per-task means (K,) of the last validation
        self.summary: dict[str, float] = {}  # its mean and worst task, as `eval/...`
        self.grad_norm: Tensor | None = None  # before clipping, of the last step
        self.probed: dict[str, Tensor] = {}  # what probes measured of the tasks after the last step
        self.measured: dict[str, Tensor] = {}  # what the last micro-batch showed of each sample, (B,)
        self.strict_loading = False  # checkpoints hold trained weights only
        self.seed, self._has_dropout = seed, set_dropout(model, in_adapters=objective.form == "supervised")
        self.reads_kl = objective.form == "mismatched"  # whether losses are measured from KTO's KL, one of many rows
        self.sides: Sides = (0,) if self.reads_kl else None  # completions that training reads with gradients
        self._kl_K = self.gate_K = torch.empty(0)  # of the step at work

    def setup(self, stage: str) -> None:
        self.tasks = self.tasks or tasks_of(self.trainer)

    def configure_model(self) -> None:
        # the mesh comes from a strategy that spreads parameters; Lightning calls this before a validation once more
        if self.device_mesh is not None and not sharding.is_sharded(self):
            sharding.shard(self, self.model, self.device_mesh["data_parallel"])

    def reads_ahead(self, accumulate: int, num_completions: int) -> tuple[int, ...]:
        """The completions of all rows of a step that are read before its first backward pass, or none."""
        return tuple(range(num_completions)) if gates_ahead(self, accumulate) else (1,) * self.reads_kl

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if "ahead" in batch:
            self._kl_K, self.gate_K = look_ahead(self, batch.pop("ahead"))
        if self.reads_kl:
            batch["kl_K"] = self._kl_K
        if self._has_dropout:  # the same noise for a training that goes on
            torch.manual_seed(
                int(np.random.SeedSequence([self.seed, batch_idx, self.global_rank]).generate_state(1)[0])
            )
        scores = self.scores(batch)
        value_B = scores["loss"]
        measured = {"task_B": batch["task_B"], "draw_prob_B": batch["draw_prob_B"], "loss_B": value_B.detach()}
        if "specialist_loss_B" in batch:
            gap_B = scores["loss"] - batch["specialist_loss_B"]
            excess_B = clip_sample(gap_B, self.clip)
            measured["excess_B"] = excess_B.detach()
            if self.descends_on == "excess":
                value_B = excess_B * gate(self, gap_B, batch)
        elif self.descends_on == "excess":
            raise MixalignError("This mixer descends on excess loss, but the batches carry no specialist losses.")
        if "weight_B" in batch:
            measured["weight_B"] = batch["weight_B"]
        self.measured = measured
        return {"loss": (self._weight(batch) * value_B).sum(), **measured}

    def _weight(self, batch: Batch) -> Tensor:
        """Weight of each sample of this micro-batch, (B,).

        The counts are those of the whole global batch. Lightning divides by the accumulated micro-batches and
        averages over ranks; both are undone here, so that the sum over all of them is the objective itself:
        `sum_i loss_i mean_i`, or the plain mean for a neutral mixture. Rows with weights count those beside, which
        are 1 on average over a task's table: a mean over all of it is the weighted mean, and a mean over some of its
        rows is that in expectation.
        """
        count_K, task_B = batch["count_K"], batch["task_B"]
        if self.mix_loss_K is None:
            weight_B = count_K.sum().reciprocal().expand(task_B.shape)
        else:
            weight_B = (self.mix_loss_K.to(count_K) / count_K)[task_B]
        if "weight_B" in batch:
            weight_B = weight_B * batch["weight_B"]
        return weight_B.float() * (self.trainer.world_size * self.trainer.accumulate_grad_batches)

    def logp(self, batch: Batch) -> Tensor:
        """Log-probability of each completion (B, S), nats; the batch gets those of a reference that is run beside."""
        self._put_reference(batch)
        return score_completions(self.model, batch).logp_BS

    def scores(self, batch: Batch) -> dict[str, Tensor]:
        """What the objective says of each sample of a batch, (B,) each; `loss` is one of them, in nats."""
        self._put_reference(batch)
        return self.objective(self.model, batch)

    def _put_reference(self, batch: Batch) -> None:
        if self.live_reference is not None and "reference_logp_BS" not in batch:
            batch["reference_logp_BS"] = self.live_reference(batch)

    def on_validation_epoch_start(self) -> None:
        self._validation = Validation(self)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._validation.add(batch)

    def on_validation_epoch_end(self) -> None:
        self.evaluation = self._validation.means()
        if self.trainer.state.fn == "fit":  # else the final test rows would end the validation's curve
            self.summary = summary_of(self.evaluation)
        # for callbacks that watch them; TaskLog sends them to the loggers, at the step of the per-task numbers
        self.log_dict(self.summary, logger=False, rank_zero_only=True)

    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = self.settings.build(self.model.parameters(), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        limit = self.settings.max_grad_norm
        self.grad_norm = clip_gradients(self.trainer, optimizer, self.model.parameters(), limit)

    def on_fit_start(self) -> None:
        # from_pretrained gives evaluation mode, and Lightning keeps what it finds since 2.2 (its pull request 18951)
        self.model.train()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

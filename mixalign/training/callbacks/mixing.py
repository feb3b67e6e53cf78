"""The callback that closes the loop: measure, reduce over ranks, update the mixture, apply it."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from mixalign.data.batches.module import check_same_tasks
from mixalign.data.batches.sampler import MixtureSampler
from mixalign.losses.excess import Clip, clip_mean
from mixalign.mixers.base import PROBED, Mix, Mixer, MixSignal, State
from mixalign.mixers.outside import as_rule
from mixalign.training.callbacks.mix_history import HistoryFile
from mixalign.training.callbacks.on_nan import BadTasks, OnNan
from mixalign.training.own_script import data_of, tell
from mixalign.training.task_mean import OnItsWay, TaskMean
from mixalign.types import sum_dtype

__all__ = ["Mixing"]

log = logging.getLogger(__name__)


class Mixing(L.Callback):
    """Runs a mixer: one update for each optimizer step, in effect from the next global batch on.

    Args:
        mixer: the rule.
        tasks: names of the K tasks; None takes those of the trainer's `MixtureData`.
        rows_K: training rows of each task; None the same.
        history: file that gets one JSON line an update; None writes none.
        on_nan: what happens when a task's loss is not finite; see `BadTasks`.
    """

    def __init__(
        self,
        mixer: Mixer,
        tasks: list[str] | None = None,
        rows_K: list[int] | None = None,
        history: Path | None = None,
        on_nan: OnNan = "raise",
    ) -> None:
        self.mixer, self._kept_in = as_rule(mixer), (history, on_nan)
        self.tasks: list[str] = []
        self.mix: Mix
        self.state: State
        self.signal: MixSignal | None = None  # what the last update saw
        self.taken: Mix | None = None  # the mixture under which it was measured
        self.updates = 0
        self.why_stopped = ""  # why it ended the training before its last step
        self._sums: TaskMean | None = None
        self._micro_batches = 0
        self._arriving: OnItsWay | None = None
        if tasks is not None and rows_K is not None:
            self._begin(tasks, rows_K)

    def _begin(self, tasks: list[str], rows_K: list[int]) -> None:
        """The mixture that a training starts with."""
        history, on_nan = self._kept_in
        self.tasks, self.rows_K = tasks, rows_K
        self.history = HistoryFile(self.mixer, tasks, history)
        self.bad_tasks = BadTasks(tasks, on_nan)
        self.mix, self.state = self.mixer.init(torch.tensor(rows_K, dtype=torch.float64))
        unknown_K = torch.full((len(tasks),), torch.nan, dtype=torch.float64)
        self._no_eval: dict[str, Any] = {"eval_loss_K": unknown_K, "eval_excess_K": unknown_K}
        self._eval = self._no_eval  # validated since the last update

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if not self.tasks:
            data = data_of(trainer, self.mixer)
            self._begin(data.tasks, data.sampler.volume_K.tolist())
        tell(trainer, pl_module, self.mixer)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._sums = TaskMean(["loss", "excess", "weighted"], len(self.tasks), sum_dtype(pl_module.device))
        self._sums.to(pl_module.device)
        self._apply(trainer, pl_module)
        if trainer.is_global_zero:
            self.history.forget_after(self.updates)
        self.history.warn("caution", self.mixer.caution(len(self.tasks), trainer.datamodule.sampler.batch_size))

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        # here, so that a GPU runs the backward pass while its numbers travel and the mixer thinks
        assert self._sums is not None
        seen = pl_module.measured
        excess_B = seen.get("excess_B", torch.full_like(seen["loss_B"], torch.nan))
        weighted_B = excess_B / seen["draw_prob_B"]
        self._sums.update(
            seen["task_B"], seen.get("weight_B"), loss=seen["loss_B"], excess=excess_B, weighted=weighted_B
        )
        self._micro_batches += 1
        if self._micro_batches % trainer.accumulate_grad_batches == 0:
            self._arriving = self._sums.send()
            self._sums.reset()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > self.updates:  # the last micro-batch of an optimizer step
            self._update(trainer, pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return  # a few rows, before the first step
        means = {name: value_K.to("cpu", torch.float64) for name, value_K in pl_module.evaluation.items()}
        excess_K = means.get(
            "excess" if self.mixer.clip == "sample" else "gap", torch.full_like(means["loss"], torch.nan)
        )
        self._eval = {"eval_loss_K": means["loss"], "eval_excess_K": clip_mean(excess_K, self.mixer.clip)}

    def _update(self, trainer: Any, pl_module: Any) -> None:
        self.taken, (self.signal, bad_K) = self.mix, self._measure(pl_module)
        self.history.add(self.updates + 1, self.mix, self.signal, write=trainer.is_global_zero)
        if not bad_K.any():
            self.mix, self.state = self.mixer.update(self.signal, self.state)
            self._eval = self._no_eval
        self.mix = self.bad_tasks.without_banned(self.mix)
        self.updates += 1
        self._apply(trainer, pl_module)
        self.history.look_back(self.updates)
        if self.mixer.exhausted(self.state, self.bad_tasks.banned_K) and not trainer.should_stop:
            self.why_stopped = "every task has had its max_epochs"
            log.info("%s: the run ends at step %d of %d", self.why_stopped, self.updates, trainer.max_steps)
            trainer.should_stop = True

    def _measure(self, pl_module: Any) -> tuple[MixSignal, Tensor]:
        """Means over all ranks and micro-batches of the step, and tasks whose loss is not finite (K,).

        Waits for the last forward pass, not for the step.
        """
        assert self._arriving is not None
        means = self._arriving.by_name()
        count_K, loss_K = means["count"], means["loss"]
        counted_K = means.get("weight", count_K)
        bad_K = (counted_K > 0) & ~loss_K.isfinite()
        if bad_K.any():
            self.bad_tasks.meet(bad_K, self.updates + 1)
        loss_iw_K = (loss_K * counted_K / self.mix.sample_K).nan_to_num(0.0) / count_K.sum()
        signal = MixSignal(self.updates, count_K, loss_K, loss_iw_K=loss_iw_K, eval_loss_K=self._eval["eval_loss_K"])
        signal = replace(signal, weight_K=means.get("weight"), **self._take_probed(pl_module))
        if means["excess"].isnan().all():
            return signal, bad_K
        clip: Clip = "none" if self.mixer.averages else self.mixer.clip
        weighted_K = (means["weighted"] * counted_K).nan_to_num(0.0) / count_K.sum()
        excess_K, weighted_K = clip_mean(means["excess"], clip), clip_mean(weighted_K, clip)
        return replace(signal, excess_K=excess_K, excess_iw_K=weighted_K, **self._eval), bad_K

    def _take_probed(self, pl_module: Any) -> dict[str, Any]:
        """What probes measured after this step; nan for what the mixer reads and they did not."""
        probed: dict[str, Any] = dict(pl_module.probed)
        num_tasks = len(self.tasks)
        pl_module.probed.clear()
        for name in (self.mixer.needs & PROBED) - {*probed}:
            probed[name] = torch.full((num_tasks,) * name.count("K"), torch.nan, dtype=torch.float64)
        return probed

    def _apply(self, trainer: Any, pl_module: Any) -> None:
        trainer.datamodule.sampler.set_mixture(self.mix.sample_K)
        pl_module.mix_loss_K = self.mix.loss_K

    def summary(self, sampler: MixtureSampler) -> dict[str, Any]:
        """What `mixture.json` holds; see `HistoryFile.summary`."""
        return self.history.summary(self.updates, self.mix, sampler)

    def state_dict(self) -> dict[str, Any]:
        mix = {"sample_K": self.mix.sample_K}
        if self.mix.loss_K is not None:
            mix["loss_K"] = self.mix.loss_K
        return {
            "tasks": list(self.tasks),
            "mixer": dict(self.state),
            "mix": mix,
            "updates": self.updates,
            **self.history.state_dict(),
            "banned_K": self.bad_tasks.banned_K.clone(),
            "eval": dict(self._eval),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check_same_tasks(state_dict.get("tasks"), self.tasks)
        self.state = dict(state_dict["mixer"])
        self.mix = Mix(**state_dict["mix"])
        self.updates = state_dict["updates"]
        self.history.load_state_dict(state_dict)
        self.bad_tasks.banned_K = state_dict["banned_K"].clone()
        self._eval = dict(state_dict["eval"])

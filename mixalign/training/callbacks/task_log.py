"""Per-task numbers to the loggers, every few steps and at each validation."""

from math import log
from typing import Any

import lightning as L

from mixalign.checks import check_number
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.metrics_file import MetricsFile

__all__ = ["TaskLog"]


class TaskLog(L.Callback):
    """Logs `<quantity>/<task>` for every task, straight to the loggers.

    A line of step N is what optimizer step N did, counted from 1: the losses of its batch, and the mixture and the
    learning rate that it was taken with; in a validation, the losses of the weights that it left.

    Lightning's `self.log` of 128 values costs 28 ms a step; this costs one dictionary every `every` steps.

    Args:
        mixing: where the mixture and the last measurements are.
        every: optimizer steps between two lines.
    """

    def __init__(self, mixing: Mixing, every: int = 10) -> None:
        check_number("log_every", every, 1, whole=True)
        self.mixing, self.every = mixing, every
        self._logged = -1
        self._rate = 0.0

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile) and trainer.is_global_zero:
                logger.forget_after(self.mixing.updates)  # the trainer learns its step later

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._rate = float(optimizer.param_groups[0]["lr"])  # afterwards the schedule is at the next step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step % self.every == 0 and step != self._logged and self.mixing.signal is not None:
            self._logged = step
            _send(trainer, self._training(trainer, pl_module), step)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn != "fit":
            return
        line: dict[str, float] = dict(pl_module.summary)
        for quantity, value_K in pl_module.evaluation.items():
            if quantity != "count":
                line |= self._by_task(f"eval_{quantity}", value_K)
        _send(trainer, line, trainer.global_step)

    def _training(self, trainer: Any, pl_module: Any) -> dict[str, float]:
        mixing, sampler = self.mixing, trainer.datamodule.sampler
        signal, taken = mixing.signal, mixing.taken
        assert signal is not None
        assert taken is not None
        alpha_K = taken.alpha_K
        assert signal.loss_K is not None
        seen = sampler.cursor_K / max(1, sampler.cursor_K.sum())
        line = self._by_task("alpha", alpha_K) | self._by_task("loss", signal.loss_K)
        line |= self._by_task("share", seen) | self._by_task("epochs", sampler.epochs_K)
        entropy = -sum(a * log(a) for a in alpha_K.tolist() if a > 0)
        line |= {"mix/entropy": entropy, "mix/effective_tasks": 1 / float((alpha_K**2).sum())}
        if signal.excess_K is not None:
            line |= self._by_task("excess", signal.excess_K)
            line["mix/max_excess"] = float(signal.excess_K.nan_to_num(0.0).max())
        counted_K, loss_K = signal.counted_K, signal.loss_K.nan_to_num(0.0)
        line["train/loss"] = float((loss_K * counted_K).sum() / counted_K.sum())
        line["train/learning_rate"] = self._rate
        if pl_module.grad_norm is not None:
            line["train/grad_norm"] = float(pl_module.grad_norm)
        return line

    def _by_task(self, quantity: str, value_K: Any) -> dict[str, float]:
        """`quantity/task` for every task where there is a number."""
        pairs = zip(self.mixing.tasks, value_K.tolist(), strict=True)
        return {f"{quantity}/{task}": x for task, x in pairs if x == x}


def _send(trainer: Any, line: dict[str, float], step: int) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(line, step=step)

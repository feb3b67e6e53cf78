"""Leaving a training on a signal, with everything saved."""

import logging
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from lightning.pytorch.callbacks import Checkpoint

from mixalign.errors import Stopped
from mixalign.training.checkpoints import LAST
from mixalign.training.lightning_quirks import validation_follows

__all__ = ["Leave"]

log = logging.getLogger(__name__)
EVERY = 10  # optimizer steps between two questions whether another rank was told to stop


class Leave(Checkpoint):
    """On SIGTERM (a preempted job) or Ctrl-C, ends the step, saves, and raises Stopped; a second Ctrl-C does not wait.

    A step that is validated ends with its validation; see `validation_follows`. As a Checkpoint it comes after the
    callbacks that judge the validation.

    Args:
        folder: of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LAST
        self._signal = 0
        self._step = 0
        self._leaving = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._signal, self._step, self._leaving = 0, trainer.global_step, False
        if threading.current_thread() is threading.main_thread():
            # here, since Lightning has put its own in place by now, which leaves without saving (2.6.6)
            self._before = {n: signal.signal(n, self._hear) for n in (signal.SIGTERM, signal.SIGINT)}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
        log.warning("%s: saving after this step%s", signal.Signals(number).name, " (again: at once)" * (number == 2))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            return  # between the micro-batches of a step
        self._step = trainer.global_step
        self._leaving = self._agreed(trainer)
        if self._leaving and not validation_follows(trainer, batch_idx):
            self._leave(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self._leaving:
            self._leave(trainer)

    def _leave(self, trainer: Any) -> NoReturn:
        trainer.save_checkpoint(self.path)
        number = self._signal or signal.SIGTERM
        raise Stopped(f"stopped by {signal.Signals(number).name}; saved {self.path}", 128 + number)

    def _agreed(self, trainer: Any) -> bool:
        """Whether any rank was told to stop; all ranks ask at the same steps."""
        if trainer.world_size == 1:
            return bool(self._signal)
        return self._step % EVERY == 0 and trainer.strategy.reduce_boolean_decision(bool(self._signal), all=False)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

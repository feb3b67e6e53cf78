"""The checkpoint that a run goes on from."""

import time
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint

from mixalign.training.checkpoints import LAST
from mixalign.training.lightning_quirks import validation_follows

__all__ = ["SaveByTime", "SaveNewest"]

PAUSE = 30.0  # least seconds between two checkpoints
SHARE = 0.02  # of the time that may go to saving them
EVERY = 10  # optimizer steps between two questions of several processes whether it is time


class SaveNewest(Checkpoint):
    """Keeps the newest state of a training in one file.

    A step that is validated is saved after its validation; see `validation_follows`. The last one of a training is
    always saved, also when a callback such as EarlyStopping ends it.

    Args:
        folder: of the checkpoints.
        every: optimizer steps between two; None: one after each validation.
    """

    def __init__(self, folder: Path, every: int | None = None) -> None:
        self.path, self.every = folder / LAST, every

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step_ends = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.every and step_ends and self._due(trainer) and not validation_follows(trainer, batch_idx):
            trainer.save_checkpoint(self.path)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "fit" and self._due(trainer):
            trainer.save_checkpoint(self.path)

    def _due(self, trainer: Any) -> bool:
        step = trainer.global_step
        return self.every is None or step % self.every == 0 or step >= trainer.max_steps or bool(trainer.should_stop)


class SaveByTime(Checkpoint):
    """Keeps the newest state of a training, as often as saving takes a small part of the time.

    A step that is validated is saved after its validation; see `validation_follows`.

    Args:
        folder: of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LAST
        self._step, self._saved, self._pause, self._waits = 0, 0.0, PAUSE, False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._step, self._saved, self._pause = trainer.global_step, time.monotonic(), PAUSE

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            return  # between the micro-batches of a step
        self._step = trainer.global_step
        if self._due(trainer):
            self._waits = validation_follows(trainer, batch_idx)
            if not self._waits:
                self._save(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self._waits:
            self._waits = False
            self._save(trainer)

    def _save(self, trainer: Any) -> None:
        began = time.monotonic()
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()
        self._pause = max(PAUSE, (self._saved - began) / SHARE)

    def _due(self, trainer: Any) -> bool:
        """As the first process's clock says."""
        if trainer.world_size > 1 and self._step % EVERY:
            return False
        due = time.monotonic() - self._saved >= self._pause
        return due if trainer.world_size == 1 else bool(trainer.strategy.broadcast(due))

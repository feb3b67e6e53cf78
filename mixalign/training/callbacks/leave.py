"""Leaving a training that was told to stop, with everything saved."""

from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.callbacks import Checkpoint

from mixalign import stopping
from mixalign.training.checkpoints import LAST
from mixalign.training.lightning_quirks import validation_follows

__all__ = ["Leave"]

EVERY = 10  # optimizer steps between two questions whether another rank was told to stop


class Leave(Checkpoint):
    """When the process was told to stop (see `mixalign.stopping`), ends the step, saves, and raises Stopped.

    A step that is validated ends with its validation; see `validation_follows`. As a Checkpoint it comes after the
    callbacks that judge the validation.

    Args:
        folder: of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LAST
        self._step = 0
        self._leaving = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._step, self._leaving = trainer.global_step, False
        stopping.hold()

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
        raise stopping.stopped(f"saved {self.path}")

    def _agreed(self, trainer: Any) -> bool:
        """Whether any rank was told to stop; all ranks ask at the same steps."""
        told = stopping.requested()
        if trainer.world_size == 1:
            return told
        return self._step % EVERY == 0 and bool(trainer.strategy.reduce_boolean_decision(told, all=False))

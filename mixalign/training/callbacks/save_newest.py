"""The checkpoint that a run goes on from."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint

from mixalign.training.checkpoints import LAST

__all__ = ["SaveNewest", "validation_follows"]


class SaveNewest(Checkpoint):
    """Keeps the newest state of a training in one file.

    A step that is validated is saved after its validation. A training that goes on from an older state of that step
    would leave the validation out: Lightning takes it for done, and mixers, logs and the best checkpoint would miss it.

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
        return self.every is None or step % self.every == 0 or step >= trainer.max_steps


def validation_follows(trainer: Any, batch_idx: int) -> bool:
    """Whether this batch, the last micro-batch of an optimizer step, is one that is validated after."""
    if not trainer.enable_validation:
        return False
    return (batch_idx + 1) % trainer.val_check_batch == 0 or trainer.global_step >= trainer.max_steps

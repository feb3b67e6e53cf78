"""The checkpoint that a run goes on from."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Checkpoint

from mixalign.training.checkpoints import LAST
from mixalign.training.lightning_quirks import validation_follows

__all__ = ["SaveNewest"]


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

"""The settings of the optimizer in a training that goes on."""

import logging
from typing import Any

import lightning as L

from mixalign.fingerprint import differences
from mixalign.training.optimizer import plain_settings

__all__ = ["OptimizerSettings"]

log = logging.getLogger(__name__)


class OptimizerSettings(L.Callback):
    """Puts the run's own settings in the place of those that a checkpoint brings back, and says which are others.

    Lightning restores rate, decay and betas with the moments of AdamW, whatever the optimizer was built with.
    """

    KEY = "optimizer_settings"

    def __init__(self) -> None:
        self._then: dict[str, Any] | None = None  # in the checkpoint; None in a training that begins

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[self.KEY] = plain_settings(pl_module.settings)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._then = checkpoint.get(self.KEY, {})

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self._then is None:
            return
        (config,) = trainer.lr_scheduler_configs
        pl_module.settings.apply(trainer.optimizers[0], config.scheduler)
        now = plain_settings(pl_module.settings)
        if changed := differences(self._then or now, now):
            log.warning(
                "The optimizer's settings are others than in the checkpoint, and apply from here on: %s.",
                "; ".join(changed).replace("got", "then").replace("wanted", "now"),
            )

"""How far a training is, with its mixture: a bar in a terminal, lines elsewhere."""

import logging
import time
from typing import Any

from lightning.pytorch.callbacks import ProgressBar

from mixalign.terminal import Bar, is_watched
from mixalign.training.callbacks.mixing import Mixing

__all__ = ["MixtureProgress"]

log = logging.getLogger(__name__)
SHOWN = 3  # heaviest tasks below the bar
LINES = 10  # of a training whose bar nobody can watch


class MixtureProgress(ProgressBar):
    """The bar of a training: its title, steps, the heaviest tasks and the worst validation excess in nats.

    In a pipe or a file it is a line every tenth of the steps, with the time that the rest will take at that speed.

    Lightning asks for a subclass of its own bar, without which it adds another; and disables it on all processes but
    the first.

    Args:
        mixing: where the mixture is.
        title: what is being trained.
    """

    def __init__(self, mixing: Mixing, title: str) -> None:
        super().__init__()
        self.mixing, self.title = mixing, title
        self._enabled = True
        self._bar: Bar | None = None
        self._worst = ""
        self._began, self._first, self._said = 0.0, 0, 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        self._bar = Bar(self.title, trainer.max_steps, "step", not self._enabled, self.note, trainer.global_step)

        self._began, self._first = time.monotonic(), trainer.global_step
        self._said = trainer.global_step * LINES // max(1, trainer.max_steps)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if self._bar is not None:
            self._bar.update(trainer.global_step)
        tenth = trainer.global_step * LINES // max(1, trainer.max_steps)
        if self._enabled and tenth > self._said and not is_watched():
            self._said = tenth
            log.info("%s: %s", self.title, self._line(trainer.global_step, trainer.max_steps))

    def on_validation_start(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.refresh()  # it stands still meanwhile, and says why

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        excess_K = pl_module.evaluation.get("excess")
        if excess_K is not None:
            self._worst = f"worst excess {float(excess_K[~excess_K.isnan()].max()):.3f}"

    def on_train_end(self, *_: Any) -> None:
        self._close()

    def on_exception(self, *_: Any) -> None:
        self._close()

    def teardown(self, *_: Any, **__: Any) -> None:
        self._close()

    def _line(self, step: int, steps: int) -> str:
        left = (steps - step) * (time.monotonic() - self._began) / max(1, step - self._first)
        parts = [f"step {step} of {steps}", *filter(None, [self.note()])]
        if step < steps:
            parts.append(f"{int(left) // 60}:{int(left) % 60:02} left")
        return ", ".join(parts)

    def note(self) -> str:
        """The heaviest tasks with their weights, and the worst excess of the last validation."""
        alpha_K = self.mixing.mix.alpha_K
        parts = ["validating"] if self.trainer.validating else []
        if len(alpha_K) > 1:
            heavy = alpha_K.argsort(descending=True, stable=True)[:SHOWN].tolist()
            parts += [f"{self.mixing.tasks[k]} {float(alpha_K[k]):.2f}" for k in heavy]
        return "  ".join(parts + ([self._worst] if self._worst else []))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

"""How far a training is, with its mixture: a bar in a terminal, lines elsewhere."""

import logging
import math
import time
from typing import Any

from lightning.pytorch.callbacks import ProgressBar

from mixalign.bars import Bar, small_bar
from mixalign.course import READING, TRAINING, Course, clock
from mixalign.terminal import counted, is_watched
from mixalign.training.callbacks.mixing import Mixing

__all__ = ["MixtureProgress"]

log = logging.getLogger(__name__)
SHOWN = 3  # heaviest tasks below the bar
LINES = 10  # of a training whose bar nobody can watch


class MixtureProgress(ProgressBar):
    """The bar of a training: its title, steps, the time that it and the whole run take, the loss of the last step in
    nats, the heaviest tasks, and the worst validation excess in nats.

    In a pipe or a file it is a line every tenth of the steps.

    Lightning asks for a subclass of its own bar, without which it adds another; and disables it on all processes but
    the first.

    Args:
        mixing: where the mixture is.
        title: what is being trained.
        course: of the whole run, told of every step and validation.
        kind: of work, as the course knows it.
    """

    def __init__(self, mixing: Mixing, title: str, course: Course | None = None, kind: str = TRAINING) -> None:
        super().__init__()
        self.mixing, self.course, self.kind = mixing, course or Course(), kind
        self.title = self.course.title(title)
        self._enabled = True
        self._bar: Bar | None = None
        self._worst = ""
        self._began, self._first, self._said = 0.0, 0, 0
        self._step, self._since = 0, 0.0  # that the course knows of, and when it was over
        self._validating = 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        first, steps = trainer.global_step, trainer.max_steps
        self._bar = Bar(self.title, steps, "step", not self._enabled, self._below, first, self._beside)
        self._began, self._first, self._since = time.monotonic(), first, time.monotonic()
        self._said = first * LINES // max(1, steps)
        self._count(first, steps, seconds=0.0)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        step, steps = trainer.global_step, trainer.max_steps
        if step > self._step:
            now = time.monotonic()
            self._count(step, steps, seconds=(now - self._since) * (step > self._first + 1))  # the first one warms up
            self._since = now
        if self._bar is not None:
            self._bar.update(step)
        tenth = step * LINES // max(1, steps)
        if self._enabled and tenth > self._said and not is_watched():
            self._said = tenth
            parts = [f"{self.title}, step {step}/{steps}", self._loss(), self._worst, *self._mixture(), *self._times()]
            log.info("%s", ", ".join(filter(None, parts)))

    def _count(self, step: int, steps: int, seconds: float) -> None:
        units = self.course.work_of(self.kind) * (step - self._step) / max(1, steps)
        self.course.worked(self.kind, units, seconds)
        self._step = step

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        self._validating = time.monotonic()
        if self._bar is not None:
            self._bar.refresh()  # it stands still meanwhile, and says why

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn != "fit":
            return
        took = time.monotonic() - self._validating
        self._since += took  # no part of the next step
        self.course.worked(READING, sum(float(d.length_N.sum()) for d in trainer.datamodule.validation), took)
        excess_K = pl_module.evaluation.get("excess")
        if excess_K is not None:
            known_K = excess_K[~excess_K.isnan()]
            self._worst = f"worst excess {float(known_K.max()) if len(known_K) else math.nan:.3f}"

    def on_train_end(self, trainer: Any, *_: Any) -> None:
        loss = f"last batch's {loss}" if (loss := self._loss()) else ""
        self.course.outcome(", ".join(filter(None, [counted(trainer.global_step, "step"), loss, self._worst])))
        self._close()

    def on_exception(self, *_: Any) -> None:
        self._close()

    def teardown(self, *_: Any, **__: Any) -> None:
        self._close()

    def _below(self) -> str:
        parts = [self._loss(), self._worst, "validating" if self.trainer.validating else ""]
        lines = ["  ".join(filter(None, parts)), "  ".join(self._mixture(small_bar))]
        return "\n".join(filter(None, lines))

    def _beside(self) -> str:
        return "  ".join(self._times())

    def _times(self) -> list[str]:
        """What is left of this training at its speed until now, and what all the run takes."""
        done, left, total = self._step - self._first, self.trainer.max_steps - self._step, self.course.total()
        seconds = left * (time.monotonic() - self._began) / max(1, done)
        return [f"{clock(seconds)} left"] * bool(done and left > 0) + [total] * bool(total)

    def _loss(self) -> str:
        """Of the rows of the last step."""
        seen = self.mixing.signal
        if seen is None or seen.loss_K is None:
            return ""
        loss = float((seen.loss_K.nan_to_num(0.0) * seen.counted_K).sum() / seen.counted_K.sum())
        return f"loss {loss:.3f}"

    def _mixture(self, bar: Any = None) -> list[str]:
        """The heaviest tasks with their weights, where these move."""
        alpha_K = self.mixing.mix.alpha_K
        if len(alpha_K) < 2 or self.mixing.mixer.static:
            return []
        heavy = alpha_K.argsort(descending=True, stable=True)[:SHOWN].tolist()
        shown = [(self.mixing.tasks[k], float(alpha_K[k])) for k in heavy]
        return [f"{task} {share:.2f}" + (f" {bar(share)}" if bar else "") for task, share in shown]

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

"""Who looks at validations from outside of a training, such as a search that ends trials without promise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L

__all__ = ["Watched", "watched"]

Look = Callable[[int, float], None]
_looks: list[Look] = []


@contextmanager
def watched(look: Look) -> Iterator[None]:
    """Within, every training of a generalist gives its step and its worst excess (or loss), nats, after a validation.

    What `look` raises ends the training.
    """
    _looks.append(look)
    try:
        yield
    finally:
        _looks.remove(look)


class Watched(L.Callback):
    """Tells those who look what a validation found."""

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or not _looks:
            return
        for name in ("eval/worst_excess", "eval/worst_loss"):
            if name in trainer.callback_metrics:
                value = float(trainer.callback_metrics[name])
                for look in tuple(_looks):
                    look(trainer.global_step, value)
                return

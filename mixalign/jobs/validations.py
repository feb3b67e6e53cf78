"""How often a training looks at validation rows, and at how many of them."""

from collections.abc import Sequence
from math import ceil

import numpy as np

from mixalign.config.settings import RunSettings
from mixalign.data.dataset import TaskDataset
from mixalign.models.tiny import TinyLlama

__all__ = ["read_in_training", "validation_interval"]

MOST = 10  # validations of a training
SHARE = 0.1  # of the passes of a training, which its validations may take
PASSES, PASSES_OF_LORA = 3, 2  # of a training step, in forward passes: a backward pass is two, one without weights' own


def read_in_training(tables: Sequence[TaskDataset], most: int | None, seed: int) -> list[TaskDataset]:
    """The validation rows that validations during a training read: `most` of each task, drawn once, or all."""
    return [table if most is None or len(table) <= most else table.take(_drawn(table, most, seed)) for table in tables]


def validation_interval(
    settings: RunSettings, steps: int, train: Sequence[TaskDataset], validation: Sequence[TaskDataset]
) -> tuple[int, str]:
    """Optimizer steps between two validations, and why; no reason where it was set.

    By default a tenth of the run. For a trained model validations take at most about a tenth of the training's work,
    counted in tokens that pass through the model, so that it is the same on every machine; the last step is always
    validated.
    """
    tenth = max(1, steps // MOST)
    if settings.val_every is not None:
        return settings.val_every, ""
    if isinstance(settings.model, TinyLlama):
        return tenth, ""
    read = read_in_training(validation, settings.eval_rows, settings.data.seed)
    tokens = sum(int(table.length_N.sum()) for table in read)
    length = sum(float(table.length_N.mean()) for table in train) / len(train)
    work = (PASSES if settings.lora is None else PASSES_OF_LORA) * steps * settings.batch_size * length
    times = max(1, min(MOST, int(SHARE * work / tokens))) if tokens else MOST
    every = max(tenth, ceil(steps / times))
    rows, share = sum(map(len, read)), min(1.0, ceil(steps / every) * tokens / work)
    return (
        every,
        f"val_every={every} (a validation reads {rows} rows; all of them are {share:.0%} of the training's work)",
    )


def _drawn(table: TaskDataset, most: int, seed: int) -> np.ndarray:
    """Some of the rows that count: a draw of rows of weight 0 alone would measure nothing."""
    counted_N = np.flatnonzero(table.relative_weights(slice(None)) > 0)
    places = np.random.default_rng([seed, len(table)]).choice(len(counted_N), min(most, len(counted_N)), replace=False)
    drawn: np.ndarray = np.sort(counted_N[places])
    return drawn

"""Scores of frozen models for scripts of one's own: log-probabilities of a reference policy, losses of specialists."""

from collections.abc import Iterator
from typing import Any

from mixalign.data.batches.module import MixtureData
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError, did_you_mean
from mixalign.frozen.score import score_rows
from mixalign.objectives.base import Objective
from mixalign.objectives.frozen_losses import frozen_losses

__all__ = ["score_reference", "score_specialist"]


def score_reference(model: Any, data: MixtureData, batch_size: int = 64) -> None:
    """Gives every row its log-probabilities under the reference policy, which DPO and KTO stay close to.

    Args:
        model: a causal LM of transformers, as training starts from it; it is read on its device, in evaluation mode.
        batch_size: rows of one forward pass.
    """
    for table in _tables(data):
        table.attach("reference_logp", score_rows(model, table, {}, batch_size).align(table))


def score_specialist(model: Any, data: MixtureData, task: str, objective: Objective, batch_size: int = 64) -> None:
    """Gives every row of one task the loss of its specialist, over which excess is counted.

    Args:
        model: trained on this task alone.
        task: its name.
        objective: the one that the generalist is trained by.
        batch_size: rows of one forward pass.

    Raises:
        MixalignError: for a task that the data does not have, or rows without the reference policy's scores.
    """
    if task not in data.tasks:
        raise MixalignError(f"`task` is {task!r}, which the data does not have. {did_you_mean(task, data.tasks)}")
    for table in _tables(data):
        if table.task == task:
            if objective.uses_reference and "reference_logp" not in table.columns:
                raise MixalignError(
                    f"`objective` is {objective.name}, which reads a reference policy, and the rows of `{task}` have "
                    "no scores of it. Call score_reference(model, data) first, with the model that is trained then."
                )
            logp_NS = score_rows(model, table, {}, batch_size).align(table)
            table.attach("specialist_loss", frozen_losses(objective, table, logp_NS, data.tasks.index(task)))


def _tables(data: MixtureData) -> Iterator[TaskDataset]:
    yield from (*data.train, *data.validation)

"""The contract of an objective: a batch and a model in, one loss a sample out."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, ClassVar, Protocol

import torch
from torch import Generator, Tensor, nn

from mixalign.checks import check_number
from mixalign.errors import MixalignError, did_you_mean
from mixalign.types import Batch, Form

__all__ = ["Form", "Objective", "Scores", "by_task", "check_each", "check_overrides", "per_task", "values"]

Scores = dict[str, Tensor]
"""`loss` (B,), nats, and the metrics that the objective names, each (B,)."""


class Objective(Protocol):
    """A loss that reads completions' log-probabilities."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]  # keys of its evaluation scores beside `loss`

    @property
    def form(self) -> Form:
        """Rows it needs."""

    # one of the form `mismatched` has `kl_sums` beside, and reads `kl_K` of a batch: see `KTO`

    @property
    def uses_reference(self) -> bool:
        """Whether `reference_logp_BS` is read."""

    def for_tasks(self, overrides: Sequence[Mapping[str, Any]]) -> "Objective":
        """The same objective with some settings replaced for each task, in the order of the tasks."""

    def scores(self, logp_BS: Tensor, batch: Batch) -> Scores:
        """Loss and metrics from log-probabilities that are known already."""

    def __call__(self, model: nn.Module, batch: Batch) -> Scores:
        """Loss (with a gradient) and metrics of the batch."""

    def fisher_loss(self, model: nn.Module, batch: Batch, generator: Generator) -> Tensor:
        """A loss of each sample (B,), nats, on labels that the model itself draws: its gradients measure curvature.

        The expectation over the draws of `g g'`, g being the gradient of a sample's entry, is that sample's generalised
        Gauss-Newton matrix `J' H J` under the objective (J the derivative of the model's outputs by its weights, H
        the second derivative of the loss by the outputs). With the labels of the data it would be the empirical
        Fisher, whose directions depend on how wrong the model is (arXiv 1905.12558).

        Args:
            generator: of the draws, on the model's device.
        """


def per_task(name: str, default: Any, overrides: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """The value of one setting for every task; whole numbers as float."""
    chosen = (o.get(name, default) for o in overrides)
    return tuple(float(value) if type(value) is int else value for value in chosen)


def values(setting: Any) -> tuple[Any, ...]:
    """One value a task, or the one value of all tasks."""
    return setting if isinstance(setting, tuple) else (setting,)


def by_task(setting: Any, task_B: Tensor) -> Tensor:
    """The setting of each sample's task (B,), float64 or bool."""
    value_K = values(setting)
    dtype = torch.bool if isinstance(value_K[0], bool) else torch.float64
    if len(set(value_K)) == 1:
        return torch.full(task_B.shape, value_K[0], dtype=dtype, device=task_B.device)
    return torch.tensor(value_K, dtype=dtype, device=task_B.device)[task_B]


def check_each(key: str, setting: Any, low: float, high: float = inf, **options: Any) -> None:
    """Refuses a setting that is, for any task, no number as `check_number` takes it with the same options.

    Raises:
        MixalignError: naming the setting, its value and what it may be.
    """
    for value in values(setting):
        check_number(key, value, low, high, **options)


def check_overrides(objective: str, overrides: Sequence[Mapping[str, Any]], known: Sequence[str]) -> None:
    """Refuses a per-task setting that the objective does not have.

    Raises:
        MixalignError: naming the setting.
    """
    for key in (k for o in overrides for k in o):
        if key not in known:
            hint = did_you_mean(key, known) if known else f"`{objective}` has no per-task settings."
            raise MixalignError(f"`data.tasks.<name>.objective.{key}` is no setting of {objective}. {hint}")

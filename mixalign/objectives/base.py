"""The contract of an objective: a batch and a model in, one loss a sample out."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

from torch import Generator, Tensor, nn

from mixalign.errors import MixalignError, did_you_mean
from mixalign.types import Batch

__all__ = ["Form", "Objective", "Scores", "per_task"]

Form = Literal["preference", "supervised"]
Scores = dict[str, Tensor]
"""`loss` (B,), nats, and the metrics that the objective names, each (B,)."""


class Objective(Protocol):
    """A loss that reads completions' log-probabilities."""

    name: ClassVar[str]
    form: ClassVar[Form]  # rows it needs
    uses_reference: ClassVar[bool]  # whether `reference_logp_BS` is read
    metrics: ClassVar[tuple[str, ...]]  # keys of its evaluation scores beside `loss`

    def for_tasks(self, overrides: Sequence[Mapping[str, float]]) -> "Objective":
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


def per_task(name: str, default: Any, overrides: Sequence[Mapping[str, float]]) -> tuple[float, ...]:
    """The value of one setting for every task."""
    return tuple(float(o.get(name, default)) for o in overrides)


def check_overrides(objective: str, overrides: Sequence[Mapping[str, float]], known: Sequence[str]) -> None:
    """Refuses a per-task setting that the objective does not have.

    Raises:
        MixalignError: naming the setting.
    """
    for key in (k for o in overrides for k in o):
        if key not in known:
            hint = did_you_mean(key, known) if known else f"`{objective}` has no per-task settings."
            raise MixalignError(f"`data.tasks.<name>.objective.{key}` is no setting of {objective}. {hint}")

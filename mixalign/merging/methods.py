"""The merge methods by name, and what a user chooses of one."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mixalign.checks import check_choice, check_number, check_numbers
from mixalign.errors import MixalignError
from mixalign.merging.formulas import dare_linear, dare_ties, linear, slerp, task_arithmetic, ties

__all__ = ["METHODS", "Merge", "Method"]


@dataclass(frozen=True)
class Method:
    """A way to merge.

    Attributes:
        formula: takes (M, ...) tensors, weights (M,) and the options named in `takes`.
        on_deltas: whether it takes and gives task vectors, which needs a base model.
        normalises: whether weights are divided by their sum unless the user says otherwise.
    """

    formula: Callable[..., Tensor]
    on_deltas: bool = True
    normalises: bool = False
    takes: tuple[str, ...] = ("normalise",)


_DARE = ("normalise", "density", "seed_M", "rescale")
METHODS = {
    "linear": Method(linear, on_deltas=False, normalises=True, takes=()),
    "slerp": Method(slerp, on_deltas=False, normalises=True, takes=()),
    "task_arithmetic": Method(task_arithmetic),
    "ties": Method(ties, normalises=True, takes=("normalise", "density", "threshold_M")),
    "dare_linear": Method(dare_linear, takes=_DARE),
    "dare_ties": Method(dare_ties, normalises=True, takes=_DARE),
}


@dataclass(frozen=True)
class Merge:
    """How to merge.

    Attributes:
        method: a name in `METHODS`.
        weights: one a model; None: equal ones that sum to 1.
        scale: lambda, the factor on the merged task vector.
        density: share of entries that `ties` keeps by magnitude and `dare_*` at random.
        trim: what the share of `ties` is taken of: the `model`, as its paper does, or each `tensor`, as mergekit does.
        rescale: of `dare_*`: `density`, `l1` or `none`; see `drop_and_rescale`.
        normalise: divide by the weights (of the models that agree); None: as the method does by itself.
        seed: of DARE's masks.
    """

    method: str = "linear"
    weights: tuple[float, ...] | None = None
    scale: float = 1.0
    density: float = 0.5
    trim: str = "model"
    rescale: str = "density"
    normalise: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("merge.method", self.method, METHODS)
        if self.weights is not None:
            check_numbers("merge.weights", self.weights)
        check_choice("merge.trim", self.trim, ("model", "tensor"))
        check_choice("merge.rescale", self.rescale, ("density", "l1", "none"))
        check_number("merge.density", self.density, 0, 1, open_low=True, why="It is the share that is kept.")
        check_number("merge.scale", self.scale)
        if self.normalise is False and not METHODS[self.method].takes:
            raise MixalignError(f"`{self.method}` always divides by the weights. Take task_arithmetic for their sum.")
        if self.scale != 1 and not METHODS[self.method].on_deltas:
            raise MixalignError(
                f"`merge.scale` is {self.scale}, but `{self.method}` has no scale. Leave it out, or take "
                "task_arithmetic, which is linear with a scale."
            )

    def weight_M(self, num_models: int) -> Tensor:
        """The weights, (M,) in float32.

        Raises:
            MixalignError: when they do not match the models, or the method takes another number of models.
        """
        if num_models < 1:
            raise MixalignError("There is no model to merge. Name at least one.")
        if self.method == "slerp" and num_models != 2:
            raise MixalignError(f"`slerp` merges exactly 2 models, but got {num_models}. Take linear for others.")
        weights = self.weights or (1 / num_models,) * num_models
        if len(weights) != num_models:
            raise MixalignError(
                f"There are {len(weights)} weights for {num_models} models. Give one a model, in their order."
            )
        divides = METHODS[self.method].normalises if self.normalise is None else self.normalise
        if divides and (min(weights) < 0 or sum(weights) <= 0):
            raise MixalignError(
                f"The weights of the merge are {', '.join(map(str, weights))}, but must be at least 0 and not all 0, "
                "for they are divided by their sum."
            )
        return torch.tensor(weights, dtype=torch.float32)

    def apply(self, x_M: Tensor, weight_M: Tensor, name: str, threshold_M: Sequence[float] | None = None) -> Tensor:
        """The formula on one parameter.

        Args:
            x_M: weights or task vectors of the parameter, (M, ...), as the method takes them.
            name: of the parameter; DARE's mask depends on it, the seed and the model's place, on nothing else.
            threshold_M: least magnitudes that `ties` keeps; None: those of this tensor.
        """
        method = METHODS[self.method]
        given: dict[str, Any] = {
            "normalise": method.normalises if self.normalise is None else self.normalise,
            "density": self.density,
            "threshold_M": threshold_M,
            "rescale": self.rescale,
            "seed_M": [mask_seed(self.seed, number, name) for number in range(len(x_M))],
        }
        merged = method.formula(x_M, weight_M, **{key: given[key] for key in method.takes})
        return self.scale * merged if method.on_deltas else merged


def mask_seed(seed: int, model: int, name: str) -> int:
    """Seed of DARE's mask of one parameter of one model."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{model}:{name}".encode()).digest()[:7])

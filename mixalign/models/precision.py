"""Lightning's words for precision, outside of its trainer."""

import logging
from typing import Any

import torch
from torch import Tensor

__all__ = ["PRECISIONS", "autocast", "canonical", "cast_weights", "warn_below_rounding"]

log = logging.getLogger(__name__)

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # precisions that autocast
CAST = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}  # precisions of the weights
SHORT = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
FELT = 0.25  # mean square of what rounding takes off weights, over that of weights at random places
PRECISIONS = ("32-true", *MIXED, *CAST, *SHORT)
"""Those in which a frozen model is read as a model is trained, so that both give a row the same log-probability."""


def canonical(precision: str | int) -> str:
    """The long name of a precision: `bf16-mixed` of `bf16`."""
    return SHORT.get(str(precision), str(precision))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """What Lightning's trainer puts around a forward pass in this precision."""
    return torch.autocast(device.type, MIXED.get(precision, torch.bfloat16), enabled=precision in MIXED)


def cast_weights(model: Any, precision: str) -> Any:
    """Converts what a model is made of, in place, where the precision is that of the weights; gives the model.

    Buffers that are not saved keep their type, as in a model that transformers loads in 16 bits: rotary frequencies
    in 16 bits would be another model than the one that is exported.
    """
    if (dtype := CAST.get(precision)) is None:
        return model
    kept = [(part, name, part._buffers[name]) for part in model.modules() for name in part._non_persistent_buffers_set]
    model.to(dtype)
    for part, name, buffer in kept:
        part._buffers[name] = buffer
    return model


@torch.no_grad()
def warn_below_rounding(model: Any, precision: str) -> None:
    """Says where training moved weights by less than a mixed precision rounds them for every product.

    Weights that were published in 16 bits lie where rounding leaves them, and are rounded back there until training
    has moved them by half a step: losses in that precision do not know of it, while a float32 export has all of it.
    Weights anywhere else lie at random places between two steps, where what moves them a little is felt on average.
    """
    if (dtype := MIXED.get(precision)) is None:
        return
    trained = [weight for weight in model.parameters() if weight.requires_grad and weight.dtype == torch.float32]
    total = sum(weight.numel() for weight in trained)
    taken = sum(_taken_by_rounding(weight, dtype) for weight in trained) / max(1, total)
    if 0 < 12 * taken < FELT:
        log.warning(
            "Training moved the weights by %.2f of a step of %s, on average, and `trainer.precision=%s` rounds them to "
            "whole steps: the losses of this run hardly know of it. Set trainer.precision=32-true, or train longer or "
            "with a higher optimizer.lr.",
            taken**0.5,
            str(dtype).removeprefix("torch."),
            precision,
        )


def _taken_by_rounding(weight: Tensor, dtype: torch.dtype) -> float:
    """Sum of squares of what rounding takes off the weights, in units of the step at each; 1/12 each at random."""
    weight = weight.detach()
    weight = weight.to_local() if hasattr(weight, "to_local") else weight  # a shard of it, with FSDP
    step = torch.finfo(dtype).eps * 2.0 ** (torch.frexp(weight).exponent - 1)
    return float(((weight - weight.to(dtype).float()) / step).square().sum())

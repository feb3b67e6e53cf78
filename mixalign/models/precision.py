"""Lightning's words for precision, outside of its trainer."""

from typing import Any

import torch

__all__ = ["PRECISIONS", "autocast", "canonical", "cast_weights"]

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # precisions that autocast
CAST = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}  # precisions of the weights
SHORT = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
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

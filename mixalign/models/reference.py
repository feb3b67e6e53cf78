"""Reference policies that are run beside the model, when their log-probabilities are not cached."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mixalign.errors import MixalignError
from mixalign.models.forward import score_completions
from mixalign.types import Batch

__all__ = ["LIVE", "adapter_off", "frozen_copy"]

Live = Callable[[Batch], Tensor]


def adapter_off(model: Any) -> Live:
    """The base model: the same weights with the adapters switched off.

    Raises:
        MixalignError: when the model has no adapters.
    """
    if not hasattr(model, "disable_adapter"):
        raise MixalignError("`reference.mode=adapter_off` needs adapters: set `lora=default`, or use mode cached.")

    @torch.no_grad()
    def reference(batch: Batch) -> Tensor:
        with model.disable_adapter():
            return score_completions(model, batch).logp_BS

    return reference


def frozen_copy(model: nn.Module) -> Live:
    """A second copy of the model as it is now."""
    frozen = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def reference(batch: Batch) -> Tensor:
        frozen.to(batch["input_ids"].device)
        return score_completions(frozen, batch).logp_BS

    return reference


LIVE: dict[str, Callable[[nn.Module], Live]] = {"adapter_off": adapter_off, "frozen_copy": frozen_copy}

"""Which layers' weights the influence is measured on."""

import re
from typing import Any

from torch import nn

from mixalign.errors import MixalignError

__all__ = ["chosen_layers"]


def chosen_layers(model: nn.Module, pattern: str = ".") -> dict[str, nn.Linear]:
    """The linear layers that are trained and whose names match, by name.

    Under LoRA these are the adapters' two factors. Left out are the LM head, which is applied without a call of its
    module, and everything that is no linear layer's weight: biases, norms and embeddings (few weights, and
    Kronecker factors are for matrices).

    Args:
        pattern: regular expression that is searched in the full name, such as `mlp` or `layers\\.(10|11)\\.`.

    Raises:
        MixalignError: when no layer is left.
    """
    trained = _trained_linears(model)
    chosen = {name: layer for name, layer in trained.items() if re.search(pattern, name)}
    if not chosen:
        names = list(trained)
        some = ", ".join(names if len(names) < 4 else [*names[:2], "...", names[-1]]) or "none"
        raise MixalignError(
            f"`influence.layers={pattern}` matches no linear layer that is trained. There are {len(names)}: {some}."
        )
    return chosen


def _trained_linears(model: Any) -> dict[str, nn.Linear]:
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = getattr(core, "get_output_embeddings", lambda: None)()
    of_head = set() if head is None else set(head.modules())
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad and module not in of_head
    }

"""A model without its weights: what its config.json says of shapes, on torch's meta device."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from mixalign.models.load import ModelSource, Pretrained

__all__ = ["shapes_of"]


def shapes_of(source: ModelSource) -> Any | None:
    """A model whose weights have shapes and types but no numbers; of an adapter, its base.

    Returns:
        None where nobody knows before the model is loaded: of weights in 4 bits, and of a model that cannot be made
        without numbers.

    Raises:
        MixalignError: when there is no such model.
    """
    if not isinstance(source, Pretrained):
        return source.build()  # of random weights, which are few
    if source.load_in_4bit:
        return None
    if (adapter := source.adapter()) is not None:
        source = source.base(adapter)
    config = source.config()
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config,
                dtype=getattr(torch, source.dtype),
                attn_implementation="eager" if source.attn_implementation == "eager" else None,  # others may need a GPU
                trust_remote_code=source.trust_remote_code,
            )
    except Exception:  # of a model's own code, or of a kind that is no language model: loading it says what is wrong
        return None

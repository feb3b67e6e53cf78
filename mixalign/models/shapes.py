"""A model without its weights: what its config.json says of shapes, on torch's meta device."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from mixalign.models.load import ModelSource, Pretrained

__all__ = ["shapes_of"]


def shapes_of(source: ModelSource) -> Any | None:
    """A model whose weights have shapes and types but no numbers; of an adapter, its base.

    Returns:
        None where the configuration does not say what lies in memory: of weights in 4 bits.

    Raises:
        MixalignError: when there is no such model.
    """
    if not isinstance(source, Pretrained):
        return source.build()  # of random weights, which are few
    if source.load_in_4bit:
        return None
    if (adapter := source.adapter()) is not None:
        source = source.base(adapter)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            source.config(),
            dtype=getattr(torch, source.dtype),
            attn_implementation=source.attn_implementation,
            trust_remote_code=source.trust_remote_code,
        )

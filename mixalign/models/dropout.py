"""Dropout: off in the base model, on in adapters where it was asked for."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["as_configured", "configured_dropout", "set_dropout"]

RATE = re.compile(r"drop", re.IGNORECASE)  # dropout, attn_pdrop, layerdrop, activation_dropout, drop_path ...
OF_ADAPTERS = "lora_dropout"  # PEFT's name of the modules
NOT_OF_THE_LM = ("summary", "classifier")  # heads that a causal language model does not have
BEFORE = "_mixalign_dropout"  # attribute of a model: (configuration, name, rate) of what was turned off


def set_dropout(model: nn.Module, in_adapters: bool = False) -> bool:
    """Turns dropout off, for good: that of modules, and rates that are plain numbers.

    Families of transformers copy rates from their configuration into attributes (OPT's `dropout`, Llama's
    `attention_dropout`, LayerDrop), or read it in the forward pass (Falcon). `as_configured` undoes the latter for
    what is saved.

    Args:
        in_adapters: leaves the dropout of adapters as `lora.lora_dropout` has it.

    Returns:
        Whether some dropout is left.
    """
    left, before = False, getattr(model, BEFORE, [])
    for name, part in model.named_modules():
        if in_adapters and OF_ADAPTERS in name.split("."):
            rate: float = getattr(part, "p", 0.0)
            left = left or rate > 0
            continue
        if "Dropout" in type(part).__name__ and hasattr(part, "p"):
            part.p = 0.0
        for key in _rates(part):
            setattr(part, key, 0.0)
        config = getattr(part, "config", None)
        for key in _rates(config) if hasattr(config, "to_dict") else ():
            before.append((config, key, getattr(config, key)))
            setattr(config, key, 0.0)
    setattr(model, BEFORE, before)
    return left


@contextmanager
def as_configured(model: nn.Module) -> Iterator[None]:
    """Within, the configuration has the rates that the model was loaded with."""
    before: list[tuple[Any, str, float]] = getattr(model, BEFORE, [])
    for config, key, rate in before:
        setattr(config, key, rate)
    try:
        yield
    finally:
        for config, key, _ in before:
            setattr(config, key, 0.0)


def configured_dropout(model: Any) -> dict[str, float]:
    """The rates of dropout in a model's configuration, above 0, of what a causal language model has."""
    config = model.config.get_text_config()
    return {key: getattr(config, key) for key in _rates(config) if not key.startswith(NOT_OF_THE_LM)}


def _rates(thing: Any) -> list[str]:
    """Attributes that are rates of dropout, and not 0."""
    return [k for k, v in vars(thing).items() if RATE.search(k) and isinstance(v, float) and 0 < v <= 1]

"""A model without its weights: what an estimate of memory reads of it, by its config.json alone."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from mixalign.errors import MixalignError
from mixalign.files import read_json
from mixalign.known import keep, recall
from mixalign.models.adapters import find_file
from mixalign.models.load import ModelSource, Pretrained
from mixalign.models.tiny import TinyLlama

__all__ = ["Shapes", "shapes_of"]

VERSION = 1  # of what is kept: raise it when the same model gets other `Shapes`
ELSEWHERE = {"auto_map", "configuration_files"}  # keys of a config.json: other files decide, too


@dataclass(frozen=True)
class Shapes:
    """Sizes of a causal language model, as loaded and without an adapter.

    Attributes:
        depth, hidden, words: of its configuration.
        heads: of attention that keeps its scores (`eager`); 0 of any other.
        widths: numbers of one token that go into and come out of the product with each matrix, the output layer's
            left out.
        numbers: by the name of each weight.
        size: bytes of the weights.
    """

    depth: int
    hidden: int
    words: int
    heads: int
    widths: list[int]
    numbers: dict[str, int]
    size: int

    @classmethod
    def of(cls, model: Any) -> "Shapes":
        """The sizes of a model, whose weights may be on the meta device."""
        config = model.config.get_text_config()
        return cls(
            depth=config.num_hidden_layers,
            hidden=config.hidden_size,
            words=config.vocab_size,
            heads=config.num_attention_heads if getattr(config, "_attn_implementation", None) == "eager" else 0,
            widths=_widths(model, getattr(config, "num_experts_per_tok", None)),
            numbers={name: weight.numel() for name, weight in model.named_parameters()},
            size=sum(weight.numel() * weight.element_size() for weight in model.parameters()),
        )


def _widths(model: Any, experts: int | None) -> list[int]:
    """`Shapes.widths`.

    Args:
        experts: that a token is sent to; None: all.
    """
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    widths = []
    for part in model.modules():
        if part in ends or isinstance(part, nn.Embedding):
            continue
        if hasattr(part, "in_features") and hasattr(part, "out_features"):  # weights in 4 bits have no such shape
            widths.append(part.in_features + part.out_features)
            continue
        for weight in part.parameters(recurse=False):
            if weight.ndim > 1:
                times = (experts or weight.shape[0]) if weight.ndim > 2 else 1
                widths.append(times * (weight.shape[-1] + weight.shape[-2]))
    return widths


def shapes_of(source: ModelSource, cache: Path | None = None) -> Shapes | None:
    """The sizes of a model that is not loaded; of an adapter, those of its base.

    Args:
        cache: keeps them, as the code of models takes two seconds to load.

    Returns:
        None where nobody knows before the model is loaded: of weights in 4 bits, and of a model that cannot be made
        without numbers.

    Raises:
        MixalignError: when there is no such model.
    """
    if isinstance(source, Pretrained):
        if source.load_in_4bit:
            return None
        if (adapter := source.adapter()) is not None:
            source = source.base(adapter)
    recipe = None if cache is None else _recipe(source)
    if cache is None or recipe is None:
        return _made(source)
    if known := recall(cache, recipe):
        return Shapes(**known)
    shapes = _made(source)
    if shapes is not None:
        keep(cache, recipe, asdict(shapes))
    return shapes


def _made(source: ModelSource) -> Shapes | None:
    if not isinstance(source, Pretrained):
        return Shapes.of(source.build())  # of random weights, which are few
    config = source.config()
    try:
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(
                config,
                dtype=getattr(torch, source.dtype),
                attn_implementation=_attention(source),
                trust_remote_code=source.trust_remote_code,
            )
    except Exception:  # of a model's own code, or of a kind that is no language model: loading it says what is wrong
        return None
    return Shapes.of(model)


def _attention(source: Pretrained) -> str | None:
    return "eager" if source.attn_implementation == "eager" else None  # others may need a GPU


def _recipe(source: ModelSource) -> dict[str, Any] | None:
    """All that decides the sizes; None where that is more than settings, libraries and a file of a folder here."""
    made_by: dict[str, Any] = {"what": "shapes", "version": VERSION}
    made_by |= {"torch": str(torch.__version__), "transformers": transformers.__version__}
    if type(source) is TinyLlama:
        return made_by | {"tiny": asdict(source), "words": len(source.tokenizer())}
    if not isinstance(source, Pretrained) or source.trust_remote_code:
        return None
    if (file := find_file(source.path, "config.json")) is None:
        return None
    try:
        config = read_json(file)
    except MixalignError:  # transformers says what is wrong
        return None
    if not config.get("model_type") or ELSEWHERE & config.keys():
        return None
    return made_by | {"config": config, "dtype": source.dtype, "attention": _attention(source)}

"""The class of a folder's tokenizer, kept in a cache: to choose it, transformers loads code of models for a second."""

import logging
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from mixalign.errors import MixalignError
from mixalign.known import content_hash, keep, recall
from mixalign.models.adapters import find_file
from mixalign.models.load import ModelSource, Pretrained
from mixalign.output import heard

__all__ = ["tokenizer_of"]

OTHERS = ("mistral_common", "sentencepiece", "tiktoken")  # libraries of tokenizers


def tokenizer_of(source: ModelSource, cache: Path) -> tuple[Any, Callable[[], None]]:
    """What `source.tokenizer()` gives, and what keeps its class, once it has proved to be of use.

    Raises:
        MixalignError: see `Pretrained.tokenizer`.
    """
    recipe = _recipe(source)
    if recipe is None or not isinstance(source, Pretrained):
        return source.tokenizer(), lambda: None
    kind = recall(cache, recipe)
    if _is_of_tokenizers(kind):
        try:
            return source.tokenizer(kind), lambda: None
        except MixalignError:  # which names this class, and is told below as always
            pass
    transformers.utils.logging.warning_once.cache_clear()  # what was said in this process counts as well
    audible = logging.getLogger("transformers").isEnabledFor(logging.WARNING)
    with heard("transformers", logging.WARNING) as warnings:
        tokenizer = source.tokenizer()
    kind = type(tokenizer).__name__
    is_known = audible and not warnings and getattr(transformers, kind, None) is type(tokenizer)
    return tokenizer, partial(keep, cache, recipe, kind) if is_known else lambda: None


def _is_of_tokenizers(kind: Any) -> bool:
    """Whether it names a class of transformers' tokenizers, and nothing else that somebody wrote into a cache."""
    found = getattr(transformers, kind, None) if isinstance(kind, str) else None
    return isinstance(found, type) and issubclass(found, transformers.PreTrainedTokenizerBase)


def _recipe(source: ModelSource) -> dict[str, Any] | None:
    """All that decides the class; None where that is more than libraries and files of a folder here."""
    if not isinstance(source, Pretrained) or source.trust_remote_code or source.adapter():
        return None
    if (config := find_file(source.path, "tokenizer_config.json")) is None:
        return None
    try:
        files = sorted(config.parent.iterdir())
        contents = {file.name: content_hash(file) for file in files if file.suffix == ".json"}
    except OSError:  # transformers says what is wrong
        return None
    return {
        "what": "tokenizer",
        "libraries": [tokenizers.__version__, transformers.__version__, *filter(find_spec, OTHERS)],
        "folder": str(config.parent),  # its name may tell the kind of the model
        "files": [file.name for file in files],
        "contents": contents,
    }

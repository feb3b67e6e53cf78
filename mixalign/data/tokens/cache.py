"""Tokenised tables on disk: made once for the same rows, tokenizer and settings, then memory-mapped."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from mixalign.data.dataset import TaskDataset
from mixalign.data.tokens.chat import prints_date
from mixalign.data.tokens.tokenise import TokenCounts, is_of_transformers, tokenise
from mixalign.errors import MixalignError
from mixalign.files import may_write
from mixalign.fingerprint import fingerprint
from mixalign.types import Example, Form

__all__ = ["HashedRows", "TokenCache", "rows_recipe", "tokenizer_recipe"]

log = logging.getLogger(__name__)

VERSION = 2  # of everything that makes ids of examples: raise it when the same rows get other ids
SMALL = 1000  # rows below which nothing is cached: tokenising them takes less than naming a large vocabulary (0.5 s)
CHUNK = 4096  # rows that are hashed together


class TokenCache:
    """Tokenises like `tokenise`, but the same rows only once.

    An entry is one file that is renamed into place, so any number of runs may share a folder: of two that make the
    same entry, the later one replaces it by its like. A damaged entry is made again. Not cached are tables of less
    than 1,000 rows, and those of a tokenizer with code of its own.

    Args:
        tokenizer: of the model.
        folder: of the entries; None caches nothing.
        workers: see `tokenise`, as for `day` and `on_lost_text`.
    """

    def __init__(
        self,
        tokenizer: Any,
        folder: Path | None,
        workers: int | None = None,
        day: str | None = None,
        on_lost_text: str = "raise",
    ) -> None:
        self.tokenizer, self.folder, self.workers = tokenizer, folder, workers
        self.day, self.on_lost_text = day, on_lost_text

    def tokenise(
        self,
        examples: Sequence[Example],
        *,
        task: str,
        form: Form,
        max_length: int,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        train_on: str = "assistant",
        source: str = "train",
    ) -> tuple[TaskDataset, TokenCounts]:
        """The table of one split of one task, memory-mapped and read-only where it is cached; see `tokenise`.

        Raises:
            MixalignError: see `tokenise`. Nothing is cached then.
        """
        settings: dict[str, Any] = {"form": form, "max_length": max_length, "train_on": train_on}
        settings |= {"chat_template_kwargs": dict(chat_template_kwargs or {}), "on_lost_text": self.on_lost_text}
        path = self._path(examples, settings)
        if path and path.is_file():
            try:
                return _load(task, path, form)
            except MixalignError as error:
                log.warning("%s is damaged (%s) and is made again.", path, error.__cause__)
        how: dict[str, Any] = {"source": source, "workers": self.workers, "day": self.day}
        made = tokenise(examples, self.tokenizer, task=task, **how, **settings)
        if path is None or not may_write(path.parent):  # of a cache that this user only reads
            return made
        dataset, counts = made
        dataset.save(path, asdict(counts))
        return _load(task, path, form)  # the same as the next run gets, and the memory is free

    def _path(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> Path | None:
        if self.folder is None or len(examples) < SMALL or self._tokenizer is None:
            return None
        recipe = {"version": VERSION, "tokenizer": self._tokenizer, "rows": rows_recipe(examples), **settings}
        return self.folder / f"{fingerprint(recipe)}.safetensors"

    @cached_property
    def _tokenizer(self) -> dict[str, Any] | None:
        return tokenizer_recipe(self.tokenizer, self.day)


def _load(task: str, path: Path, form: Form) -> tuple[TaskDataset, TokenCounts]:
    """Two tasks with the same rows share an entry, so the name is not part of it."""
    dataset, counts = TaskDataset.load(task, path, labelled=form in ("unpaired", "mismatched"))
    return dataset, replace(TokenCounts(**counts), task=task)


class HashedRows(Sequence[Example]):
    """Rows whose number and hash are known, and which are read when one of them is asked for.

    Args:
        recipe: see `rows_recipe`.
    """

    def __init__(self, number: int, recipe: str, read: Callable[[], Sequence[Example]]) -> None:
        self.recipe, self._number, self._read = recipe, number, read

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, at: Any) -> Any:
        return self._rows[at]

    def __iter__(self) -> Iterator[Example]:
        return iter(self._rows)

    @cached_property
    def _rows(self) -> Sequence[Example]:
        return self._read()


def rows_recipe(examples: Sequence[Example]) -> str:
    """A hash of the rows and their order."""
    if isinstance(examples, HashedRows):
        return examples.recipe
    digest = hashlib.sha256()
    for start in range(0, len(examples), CHUNK):
        # keys are not sorted: a template may print a tool's schema as it stands
        digest.update(json.dumps(examples[start : start + CHUNK], default=repr).encode())
    return digest.hexdigest()


def tokenizer_recipe(tokenizer: Any, day: str | None = None) -> dict[str, Any] | None:
    """Everything of a tokenizer that changes ids, libraries included; None when it has code that is not theirs.

    Args:
        day: what its chat template takes for today; None is today.
    """
    import jinja2
    import tokenizers
    import transformers

    if not is_of_transformers(tokenizer):
        return None
    try:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception:  # a tokenizer without a backend, or, as a bare Exception, a step that is written in Python
        return None
    backend |= {"truncation": None, "padding": None}  # every call of ours switches them off, the first one for good
    template = tokenizer.chat_template
    return {
        "class": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        "backend": hashlib.sha256(json.dumps(backend, sort_keys=True).encode()).hexdigest(),
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "split_special_tokens": tokenizer.split_special_tokens,  # is not in the backend's JSON
        "chat_template": template,
        "day": (day or date.today().isoformat()) if prints_date(template) else None,
        "libraries": [library.__version__ for library in (jinja2, tokenizers, transformers)],
    }

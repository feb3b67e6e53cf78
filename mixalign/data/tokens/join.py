"""Chunks of token ids one after the other: in memory while they are few, else in temporary files."""

from dataclasses import replace
from typing import Any

import numpy as np

from mixalign.data.dataset import TaskDataset
from mixalign.data.tokens.chunk import TokenChunk
from mixalign.files import append, nameless_file

__all__ = ["Joined"]

FEW = 1 << 22  # bytes of an array that are kept in memory
ARRAYS = ("ids_T", "supervised_T", "length_NS", "row_id_N")
COLUMNS = ("label_N", "weight_N")


class Joined:
    """The arrays of chunks; those of a large table are memory-mapped, from files without a name."""

    def __init__(self) -> None:
        self._arrays = {name: _Grown() for name in (*ARRAYS, *COLUMNS)}
        self._weighted = False

    def add(self, chunk: TokenChunk) -> TokenChunk:
        """Takes the arrays of a chunk, and gives back the rest of it: what became of its rows."""
        for name, grown in self._arrays.items():
            grown.add(getattr(chunk, name))
        self._weighted |= chunk.weighted
        return replace(chunk, **{name: getattr(chunk, name)[:0].copy() for name in self._arrays})

    def dataset(self, task: str) -> TaskDataset:
        """All rows, of one chunk at least."""
        dataset = TaskDataset(task, *(self._arrays[name].whole() for name in ARRAYS))
        if len(label_N := self._arrays["label_N"].whole()):
            dataset.attach("label", label_N)
        if self._weighted:
            dataset.attach("weight", self._arrays["weight_N"].whole())
        return dataset


class _Grown:
    """An array to whose end others are put."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []  # in memory, those that are not written
        self._like: Any = None  # no rows, of the right kind
        self._bytes = self._rows = 0
        self._file: Any = None

    def add(self, part: np.ndarray) -> None:
        self._parts.append(part)
        self._like = part[:0]
        self._bytes += part.nbytes
        self._rows += len(part)
        if self._bytes >= FEW:
            self._write()

    def whole(self) -> np.ndarray:
        if self._file is None:
            return np.concatenate(self._parts)
        self._write()
        return np.memmap(self._file, self._like.dtype, "r", shape=(self._rows, *self._like.shape[1:]))

    def _write(self) -> None:
        self._file = self._file or nameless_file(self)
        for part in self._parts:
            append(self._file, np.ascontiguousarray(part).tobytes())
        self._parts, self._bytes = [], 0

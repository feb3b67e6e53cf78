"""Rows that are read one after the other: in memory while they are few, else in a temporary file."""

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from mixalign.files import append, exact_json, nameless_file

__all__ = ["Spool", "spooled", "taken"]

FEW = 16_384  # rows that are kept as they are; of one task this many are in memory in any case while it is tokenised
BLOCK = 256  # rows that are written, and read, together


class _OnDemand(Sequence[Any]):
    """Rows that are made anew whenever they are asked for: what is changed in one is lost."""

    @overload
    def __getitem__(self, at: int) -> Any: ...
    @overload
    def __getitem__(self, at: slice) -> list[Any]: ...
    def __getitem__(self, at: int | slice) -> Any:
        if isinstance(at, slice):
            return [self._row(n) for n in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        return self._row(at % len(self))

    def _row(self, number: int) -> Any:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        return map(self._row, range(len(self)))


class Spool(_OnDemand):
    """Rows to which more are appended; memory holds a block of them, and where each block begins.

    The file has no name, so that it is gone with this object, or with the process. It is JSON, as no file is ever
    unpickled; a block with values that JSON does not give back as they are stays in memory.
    """

    def __init__(self) -> None:
        self._file: Any = None
        self._starts = array("q", [0])
        self._newest: list[Any] = []  # not written yet
        self._others: dict[int, list[Any]] = {}  # blocks that are no JSON
        self._block: tuple[int, list[Any]] = (-1, [])  # the one that was read last
        self._length = 0

    def append(self, row: Any) -> None:
        self._newest.append(row)
        self._length += 1
        if self._length >= FEW and len(self._newest) >= BLOCK:
            self._write()

    def kept(self) -> Sequence[Any]:
        """The rows: a list where they are few."""
        return self if self._file else self._newest

    def __len__(self) -> int:
        return self._length

    def _write(self) -> None:
        self._file = self._file or nameless_file(self)
        whole = len(self._newest) // BLOCK * BLOCK
        for first in range(0, whole, BLOCK):
            rows = self._newest[first : first + BLOCK]
            if (text := exact_json(rows)) is None:
                self._others[len(self._starts) - 1], text = rows, ""
            append(self._file, text.encode())
            self._starts.append(self._starts[-1] + len(text))
        del self._newest[:whole]

    def _row(self, number: int) -> Any:
        if number >= (written := BLOCK * (len(self._starts) - 1)):
            return self._newest[number - written]
        block, place = divmod(number, BLOCK)
        if block in self._others:
            return self._others[block][place]
        if self._block[0] != block:
            first, last = self._starts[block : block + 2]
            self._block = block, json.loads(os.pread(self._file.fileno(), last - first, first))
        return self._block[1][place]


class _Taken(_OnDemand):
    """Some of the rows of a spool."""

    def __init__(self, spool: Spool, numbers: np.ndarray) -> None:
        self.spool, self.numbers = spool, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def _row(self, number: int) -> Any:
        return self.spool._row(int(self.numbers[number]))


def spooled(rows: Iterable[Any]) -> Sequence[Any]:
    """All rows, read once."""
    spool = Spool()
    for row in rows:
        spool.append(row)
    return spool.kept()


def taken(rows: Sequence[Any], numbers: Sequence[int] | np.ndarray) -> Sequence[Any]:
    """The rows with these numbers, which rise."""
    if isinstance(rows, _Taken):
        return _Taken(rows.spool, rows.numbers[np.asarray(numbers, np.int64)])
    if isinstance(rows, Spool):
        return _Taken(rows, np.asarray(numbers, np.int64))
    return [rows[n] for n in numbers]

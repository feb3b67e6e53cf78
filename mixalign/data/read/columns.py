"""Which columns of a row are read, and what is said of the others: nothing that a row holds is lost without a word."""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from mixalign.data.read.table import Table
from mixalign.data.read.values import is_empty, show
from mixalign.errors import MixalignError, did_you_mean

__all__ = ["Columns", "ColumnUse", "Fields", "Tally", "declared_unused", "is_media", "readable", "refuse_media"]

Columns = Mapping[str, str | None]
"""Our column name to the row's; or a column of the row to None, which declares it unused."""

MEDIA = re.compile(r"(image|img|picture|audio|video)s?(_(url|path|file|bytes|data)s?)?|pixel_values", re.IGNORECASE)
MEDIA_KEYS = ({"bytes", "path"}, {"array", "sampling_rate"})  # of what `datasets` makes of an image or a sound


@dataclass(frozen=True)
class ColumnUse:
    """What happens to the columns of a task, by the rows' own names, in the order in which they were met.

    Attributes:
        used: what examples are made of, in some row at least.
        unused: columns that hold something in a row that makes no use of it, and that nobody declared unused.
        declared: declared unused by `columns`.

    A column that is empty wherever it is not used is in none of them.
    """

    used: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """A sentence on the unused columns; empty when there is none."""
        if not self.unused:
            return ""
        names, nulls = (", ".join(text.format(name) for name in self.unused) for text in ("`{}`", "{}: null"))
        return f"nothing is learned from {names}. Declare what should not be as `columns: {{{nulls}}}`."


def declared_unused(columns: Columns) -> set[str]:
    """The row's columns that are not to be read: declared so, or hidden by a column mapped to the same name."""
    return set(columns) - {theirs for theirs in columns.values() if theirs is not None}


class Fields(dict[str, Any]):
    """The cells of a row that we know, under our names, which remember what was read; null counts as absent."""

    def __init__(self, row: Mapping[Any, Any], columns: Columns, known: Set[str]) -> None:
        mapped = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
        for ours, theirs in mapped.items():
            if theirs not in row:
                raise MixalignError(
                    f"`columns` maps `{ours}` to `{theirs}`, but the row has no `{theirs}`. "
                    f"{did_you_mean(theirs, map(str, row))}"
                )
        cells = {name: value for name, value in row.items() if name in known and name not in columns}
        cells |= {ours: row[theirs] for ours, theirs in mapped.items()}
        super().__init__({name: value for name, value in cells.items() if value is not None})
        self.nulls = cells.keys() - self.keys()
        self.read: set[str] = set()
        self._theirs = mapped

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)

    def theirs(self, ours: str) -> str:
        """What the row calls a column of ours."""
        return self._theirs.get(ours, ours)

    @property
    def used(self) -> set[str]:
        """The columns that were read, by the row's names."""
        return {self.theirs(name) for name in self.read if name in self or name in self.nulls}


class Tally:
    """Counts the rows of a task up to its `ColumnUse`."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._ignored = declared_unused(columns)
        self._met: dict[str, None] = {}  # an ordered set, as the others
        self._used: dict[str, None] = {}
        self._unused: dict[str, None] = {}

    def add(self, row: Mapping[str, Any], used: Set[str]) -> None:
        for name, value in row.items():
            self._met[name] = None
            if name in used:
                self._used[name] = None
            elif name not in self._ignored and name not in self._unused and not is_empty(value):
                self._unused[name] = None

    def drop(self, name: str) -> None:
        """A column that was left out before its rows were read."""
        self._met[name] = None

    def result(self) -> ColumnUse:
        """What was counted.

        Raises:
            MixalignError: for a column that is declared unused and that no row has.
        """
        declared = [name for name, theirs in self.columns.items() if theirs is None]
        for name in declared:
            if name not in self._met:
                near = did_you_mean(name, map(str, self._met))
                raise MixalignError(f"`columns` declares `{name}` unused, but no row has a column `{name}`. {near}")
        return ColumnUse(tuple(self._used), tuple(map(str, self._unused)), tuple(declared))


def refuse_media(row: Mapping[Any, Any], columns: Columns) -> None:
    """Refuses a row with images, sounds or videos that nobody declared unused.

    Raises:
        MixalignError: it names the column.
    """
    for name, value in row.items():
        if is_media(name, value) and name not in columns and name not in columns.values():
            raise MixalignError(
                f"column `{name}` is {show(value)}, but images, audio, video and files are not read: only text is "
                f"learned from. Remove such rows, or learn their text alone with `columns: {{{name}: null}}`."
            )


def is_media(name: Any, value: Any) -> bool:
    """Whether a cell holds an image, a sound or a video, by its name or by its value."""
    return (_is_called_media(str(name)) or (not isinstance(value, str) and _is_decoded(value))) and not is_empty(value)


@lru_cache(maxsize=1000)
def _is_called_media(name: str) -> bool:
    return MEDIA.fullmatch(name) is not None


def _is_decoded(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_decoded, value))
    return isinstance(value, Mapping) and any(keys <= set(value) for keys in MEDIA_KEYS)


def readable(table: Table, tally: Tally) -> Iterator[tuple[str, Any]]:
    """The rows of a table with their places, and no image or audio library called for them.

    Of a `datasets.Dataset`, columns that are declared unused are left out first, and no image, sound or video is
    decoded.
    """
    if not table.is_dataset:
        yield from table.located()
        return
    left_out = [name for name in table.rows.column_names if name in declared_unused(tally.columns)]
    for name in left_out:
        tally.drop(name)
    rows = table.rows.remove_columns(left_out)  # a copy, also when nothing is
    rows.info.features = type(rows.features)(_undecoded(rows.features))
    yield from replace(table, rows=rows).located()


def _undecoded(feature: Any) -> Any:
    """A feature of `datasets` whose images, sounds and videos stay bytes and paths; `Json` is text and no such one."""
    if isinstance(feature, Mapping):
        return {name: _undecoded(entry) for name, entry in feature.items()}
    if hasattr(feature, "feature"):  # a list
        return replace(feature, feature=_undecoded(feature.feature))
    decodes = getattr(feature, "decode", False) and type(feature).__name__ != "Json"
    return replace(feature, decode=False) if decodes else feature

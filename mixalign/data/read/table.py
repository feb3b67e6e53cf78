"""Rows with the place where each was read, and the names of splits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixalign.data.read.spool import taken
from mixalign.errors import MixalignError, did_you_mean

__all__ = ["SPLITS", "BadRow", "Table", "Tables", "canonical", "find_split", "having", "own_split", "select"]

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}  # what a split is called, in files and in data sets

SHOWN = 8  # values of a column in a message


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be parsed, where the task says that such rows are left out."""

    number: int  # line or row, from 1
    message: str


@dataclass(frozen=True)
class Table:
    """Rows of one file or data set, and where each of them was read."""

    place: str  # "tasks/math.jsonl, line": a row's number completes it
    numbers: Sequence[int]  # line or row number of each row, from 1, ascending
    rows: Any  # a list or a spool of objects, or a datasets.Dataset
    bad: Sequence[BadRow] = ()

    @property
    def is_dataset(self) -> bool:
        return hasattr(self.rows, "column_names")

    def located(self) -> Iterator[tuple[str, Any]]:
        for number, row in zip(self.numbers, self.rows, strict=True):
            yield f"{self.place} {number}", row

    def slice(self, start: int, stop: int) -> "Table":
        rows = self.rows
        numbers = range(start, min(stop, len(rows)))
        rows = rows.select(numbers) if self.is_dataset else taken(rows, numbers)
        low = self.numbers[start] if 0 < start < len(self.numbers) else 0
        high = self.numbers[stop] if stop < len(self.numbers) else float("inf")
        bad = [row for row in self.bad if low <= row.number < high]
        return Table(self.place, self.numbers[start:stop], rows, bad)


Tables = list[Table]
"""One split: the rows of one file, or of several files one after the other."""


def canonical(name: str) -> str:
    """`dev` is `validation`; a name that no split usually has stays as it is."""
    return next((split for split, names in SPLITS.items() if name in names), name)


def own_split(source: Mapping[str, Tables], split: str) -> Tables | None:
    """The split that a source brings under that name or another name of it, or None.

    Raises:
        MixalignError: when it brings two of them, such as `dev` and `eval`.
    """
    if split in source:
        return source[split]
    found = [name for name in source if canonical(name) == split]
    if len(found) > 1:
        raise MixalignError(
            f"there are {len(found)} splits that could be its {split} rows: {', '.join(found)}. Name the one that "
            f"is, such as `{split}: {found[0]}`."
        )
    return source[found[0]] if found else None


def find_split(source: Mapping[str, Tables], name: str) -> Tables:
    """The split of that name; `dev` finds `validation`, as files of either name are read alike.

    Raises:
        MixalignError: when there is none.
    """
    found = source[name] if name in source else own_split(source, canonical(name))
    if found is not None:
        return found
    if canonical(name) == "train" and not any(name in split for split in source):
        first = next(iter(source))
        raise MixalignError(
            f"there is no split `{name}`, only {', '.join(source)}. To train on it, say `split: {first}`."
        )
    raise MixalignError(f"there is no split `{name}`. {did_you_mean(name, source)}")


def select(source: Mapping[str, Tables], expression: str) -> Tables:
    """The rows that a split expression names, such as `train`, `train[:5%]` or `train[:100]+test`.

    Raises:
        MixalignError: when a split does not exist or the expression cannot be read.
    """
    if expression in source:
        return source[expression]
    names = [part.split("[")[0].strip() for part in expression.split("+")]
    try:
        found = {name: find_split(source, name) for name in names}
    except MixalignError as error:
        raise MixalignError(f"split `{expression}`: {error}") from error
    if expression in found:
        return found[expression]
    from datasets import ReadInstruction

    try:
        instruction = ReadInstruction.from_spec(expression)
        parts = instruction.to_absolute({name: sum(len(t.numbers) for t in part) for name, part in found.items()})
    except (ValueError, AssertionError) as error:
        raise MixalignError(f"split `{expression}` cannot be read: {error}. Write `train[:5%]`.") from error
    return [table for part in parts for table in _slice(found[part.splitname], part.from_ or 0, part.to)]


def having(tables: Tables, where: Mapping[str, Any]) -> Tables:
    """The rows that have the wanted values in some columns.

    Args:
        where: column to a value, or to a list of values.

    Raises:
        MixalignError: when a table lacks the column, or no row of any is left; it names values that are there.
    """
    for name, value in where.items():
        wanted = list(value) if isinstance(value, list | tuple) else [value]
        there: dict[str, None] = {}
        kept = [_kept(table, name, wanted, there) for table in tables]
        if there and not any(len(table.numbers) for table in kept):
            known = ", ".join(list(there)[:SHOWN]) + (", ..." if len(there) > SHOWN else "")
            raise MixalignError(f"`where` wants `{name}` to be {value!r}, which no row has. There are {known}.")
        tables = kept
    return tables


def _kept(table: Table, name: str, wanted: Sequence[Any], there: dict[str, None]) -> Table:
    rows = table.rows
    names = (
        {str(key) for row in rows if isinstance(row, Mapping) for key in row}
        if not table.is_dataset
        else rows.column_names
    )
    if len(rows) and name not in names:
        raise MixalignError(f"`where` names `{name}`, which is no column. {did_you_mean(name, names)}")
    if not table.is_dataset:
        values = [row.get(name) if isinstance(row, Mapping) else None for row in rows]
    else:
        values = list(rows[name])
    there |= dict.fromkeys(map(repr, values))
    places = [place for place, value in enumerate(values) if value in wanted]
    left = rows.select(places) if table.is_dataset else taken(rows, places)
    return Table(table.place, [table.numbers[place] for place in places], left, table.bad)


def _slice(tables: Tables, start: int, stop: int | None) -> Tables:
    """Rows `start` to `stop` of tables that follow each other."""
    kept, first = [], 0
    for table in tables:
        rows = len(table.numbers)
        low, high = max(0, start - first), rows if stop is None else min(rows, stop - first)
        if low < high:
            kept.append(table if (low, high) == (0, rows) else table.slice(low, high))
        first += rows
    return kept

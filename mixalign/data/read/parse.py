"""From the text of a file to rows: JSON lines, JSON, CSV and TSV.

Every function takes `skip_bad`: whether a row that cannot be parsed goes to the table's `bad` rows and the rest is
read; else it raises.
"""

import csv
import json
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

from mixalign.data.read.formats import COLUMNS
from mixalign.data.read.spool import Spool
from mixalign.data.read.table import BadRow, Table
from mixalign.errors import MixalignError

__all__ = ["read_csv", "read_json", "read_json_lines"]

MAYBE_JSON = " If the whole file is one array, call it .json."


class _Rows:
    """Rows as they are found, and what is wrong with the others."""

    def __init__(self, skip_bad: bool) -> None:
        self.numbers = array("q")
        self.rows = Spool()
        self.bad: list[BadRow] = []
        self.skip_bad = skip_bad

    def add(self, number: int, row: dict[str, Any]) -> None:
        self.numbers.append(number)
        self.rows.append(row)

    def refuse(self, number: int, error: MixalignError) -> None:
        if not self.skip_bad:
            raise error
        self.bad.append(BadRow(number, str(error)))

    def table(self, place: str) -> Table:
        rows = self.rows.kept()
        return Table(place, [*self.numbers] if isinstance(rows, list) else self.numbers, rows, self.bad)


def read_csv(path: str, lines: Iterable[str], delimiter: str = ",", *, skip_bad: bool = False) -> Table:
    """Every cell as it is written: no column of numbers, and "NA" is a word.

    Raises:
        MixalignError: for a line with another number of cells, or one that is no CSV, with its number.
    """
    limit = csv.field_size_limit(2**31 - 1)  # of characters in a cell, for the whole process
    try:
        reader = csv.reader(lines, strict=True, delimiter=delimiter)
        header = next(reader, [])
        if twice := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
            raise MixalignError(f"{path} has two columns `{twice[0]}`. Rename or remove one.")
        rows = _Rows(skip_bad)
        for start, cells in _records(path, reader, rows):
            if len(cells) == len(header):
                rows.add(start, dict(zip(header, cells, strict=True)))
            elif cells:
                what = "tabs" if delimiter == "\t" else "commas"
                error = MixalignError(
                    f"{path}, line {start} has {len(cells)} cells, but the first line names {len(header)} columns. Put "
                    f"quotes around cells with {what}, quotes or line breaks."
                )
                rows.refuse(start, error)
        return rows.table(f"{path}, line")
    except csv.Error as error:  # of the first line
        raise _no_csv(path, 1, error) from error
    finally:
        csv.field_size_limit(limit)


def _records(path: str, reader: Any, rows: _Rows) -> Iterator[tuple[int, list[str]]]:
    """(line of its beginning, cells) of every record that is CSV."""
    while True:
        start = reader.line_num + 1
        try:
            yield start, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            rows.refuse(start, _no_csv(path, reader.line_num, error))


def _no_csv(path: str, line: int, error: csv.Error) -> MixalignError:
    return MixalignError(f"{path}, line {line} is no CSV ({error}). A quote within a quoted cell is written twice.")


def read_json_lines(path: str, lines: Iterable[str], *, skip_bad: bool = False) -> Table:
    """One object a line; blank lines are none.

    Raises:
        MixalignError: for a line that is no JSON object, with its number.
    """
    rows = _Rows(skip_bad)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _json(line, f"{path}, line {number}", MAYBE_JSON if line.strip() == "[" else "")
            if not isinstance(row, dict):
                raise MixalignError(
                    f"{path}, line {number} is a JSON {type(row).__name__}, not an object: `{_snippet(line)}`. "
                    'Every line wants one object, such as {"prompt": "...", "completion": "..."}.'
                )
        except MixalignError as error:
            rows.refuse(number, error)
        else:
            rows.add(number, row)
    return rows.table(f"{path}, line")


def read_json(path: str, lines: Iterable[str], *, skip_bad: bool = False) -> Table:
    """An array of objects; an object that holds such an array under one key; or, all the same, JSON lines.

    Raises:
        MixalignError: when it is neither, or an object holds several such arrays.
    """
    lines = list(lines)
    found = _whole(path, lines)
    if found is None:
        return read_json_lines(path, lines, skip_bad=skip_bad)
    if isinstance(found, dict):
        found = _wrapped(path, found)
    rows = _Rows(skip_bad)
    for number, row in enumerate(found, 1):
        if isinstance(row, dict):
            rows.add(number, row)
        else:
            error = MixalignError(f"{path}, row {number} is not an object: `{_snippet(json.dumps(row))}`.")
            rows.refuse(number, error)
    return rows.table(f"{path}, row")


def _whole(path: str, lines: list[str]) -> Any:
    """The array or the object that the whole text is, or None when each line is an object of its own."""
    filled = [line for line in lines if line.strip()][:2]
    if not filled or filled[0].lstrip()[0] not in "[{" or (len(filled) == 2 and _is_object(filled[0])):
        return None
    try:
        return _json("".join(lines), path)
    except MixalignError:
        if filled[0].lstrip()[0] == "{" and len(filled) == 2 and _is_object(filled[1]):
            return None  # lines of which the first is damaged
        raise


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _wrapped(path: str, whole: dict[str, Any]) -> list[Any]:
    """The rows under the one key that holds some, such as `data`; an object with columns of ours is one row."""
    lists = [key for key, value in whole.items() if isinstance(value, list) and _are_objects(value)]
    if not lists or any(key in COLUMNS for key in whole):
        return [whole]
    if len(lists) > 1:
        raise MixalignError(
            f"{path} is one object with several lists of rows: {', '.join(f'`{key}`' for key in lists)}. Write each "
            "to a file of its own."
        )
    return list(whole[lists[0]])


def _are_objects(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(entry, dict) for entry in value)


def _json(text: str, place: str, hint: str = "") -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        at = getattr(error, "pos", 0)
        snippet = _snippet(text[max(0, at - 30) : at + 200])
        cure = f"Correct or remove it.{hint}"
        raise MixalignError(f"{place} is not valid JSON ({error}), near `{snippet}`. {cure}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different; `json` would keep the last of two."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"`{next(name for name in names if names.count(name) > 1)}` is there twice in one object")
    return found


def _snippet(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."

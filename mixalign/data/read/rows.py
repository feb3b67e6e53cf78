"""The rows of a split after their format was recognised, and those that were left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixalign.data.read.columns import Columns, Tally, readable
from mixalign.data.read.formats import read_row
from mixalign.data.read.mixed import Sorts
from mixalign.data.read.spool import Spool, taken
from mixalign.data.read.table import Tables
from mixalign.errors import MixalignError, did_you_mean
from mixalign.types import Example

__all__ = ["Reading", "Rows", "recognise"]


@dataclass(frozen=True)
class Rows:
    """N rows of a split.

    Attributes:
        examples: the rows; many of them come from a file whenever they are asked for.
        guessed: whether a row is a pair of texts without a `prompt`, whose prompt is what both share.
        bad: why rows were left out, one message each.
    """

    examples: Sequence[Example]
    guessed: Sequence[int]
    bad: Sequence[str] = ()

    def take(self, numbers: Sequence[int] | np.ndarray) -> "Rows":
        return Rows(taken(self.examples, numbers), bytes(self.guessed[n] for n in numbers), self.bad)


@dataclass(frozen=True)
class Reading:
    """How the rows of a task are read.

    Attributes:
        chat: whether the tokenizer has a chat template; see `to_example`.
        turns: whether plain text becomes turns; see `to_example`.
        skip_bad: whether rows that fit no format are left out.
        kinds: of rows that are wanted, for messages; see `read_row`.
        sorts: counts how they were read.
    """

    chat: bool = False
    turns: bool = False
    skip_bad: bool = False
    kinds: Sequence[str] = ()
    sorts: Sorts = field(default_factory=Sorts)


def recognise(task: str, tables: Tables, tally: Tally, reading: Reading | None = None) -> Rows:
    """The rows of some tables as examples.

    Args:
        tally: counts the columns, and has the task's names of them; `meta.question` is `question` in the object `meta`
            of a row that has no column of the whole name.
        reading: how; None: as plain text where that can be.

    Raises:
        MixalignError: for a row that fits no format, with its place.
    """
    how = reading or Reading()
    examples, guessed = Spool(), bytearray()
    bad = [f"Task `{task}`, {row.message}" for table in tables for row in table.bad]
    for place, row in (located for table in tables for located in readable(table, tally)):
        try:
            whole = _with_nested(row, tally.columns)
            example, used, sort = read_row(whole, tally.columns, chat=how.chat, turns=how.turns, kinds=how.kinds)
            tally.add(whole, used)
            how.sorts.add(sort, place)
            examples.append(example)
            guessed.append(_is_guessed(whole, example, tally.columns))
        except MixalignError as error:
            message = f"Task `{task}`, {place}: {error}"
            if not how.skip_bad:
                raise MixalignError(message) from error
            bad.append(message)
    return Rows(examples.kept(), guessed, bad)


def _with_nested(row: Mapping[str, Any], columns: Columns) -> Mapping[str, Any]:
    """The row with a column `meta.question` for each that `columns` names, and the rest of the object `meta`."""
    wanted = [name or ours for ours, name in columns.items()]
    nested = [name for name in wanted if "." in name and name not in row and name.split(".")[0] in row]
    if not nested:
        return row
    opened = {name.split(".")[0] for name in nested} - set(columns.values())
    found: dict[str, Any] = {name: value for name, value in row.items() if name not in opened}
    for name in opened:
        inside = row[name] if isinstance(row[name], Mapping) else {}
        found |= {f"{name}.{key}": value for key, value in inside.items()}
    for name in nested:
        if name.count(".") > 1:
            found.pop(".".join(name.split(".")[:2]), None)
    return found | {name: _descend(row, name) for name in nested}


def _descend(row: Mapping[str, Any], name: str) -> Any:
    value: Any = row
    path = name.split(".")
    for depth, part in enumerate(path):
        if value is None:
            return None
        if not isinstance(value, Mapping) or part not in value:
            where = ".".join(path[:depth])
            hint = did_you_mean(part, map(str, value)) if isinstance(value, Mapping) else f"It is {value!r:.60}."
            raise MixalignError(f"`columns` names `{name}`, but `{where}` of the row has no `{part}`. {hint}")
        value = value[part]
    return value


def _is_guessed(row: Mapping[str, Any], example: Example, columns: Columns) -> bool:
    """Whether the prompt was taken off the beginning of both answers."""
    prompt, chosen = example.get("prompt"), example.get("chosen")
    if not (isinstance(prompt, str) and prompt and isinstance(chosen, str)):
        return False
    return bool(row.get(columns.get("chosen") or "chosen") == prompt + chosen)

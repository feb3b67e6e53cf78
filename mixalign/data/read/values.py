"""Values of a row: shown in messages, read from JSON text, and freed of the nulls that tables pad objects with."""

import json
import math
from collections.abc import Mapping
from typing import Any

from mixalign.errors import MixalignError

__all__ = ["Row", "is_empty", "read_json", "read_verdict", "read_weight", "show", "without_nulls"]

VERDICTS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
Row = Mapping[str, Any]
"""Column to value, by our names."""


def show(value: Any) -> str:
    """The value and its type, in few characters."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: null, or a text, list or object without content."""
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)


def read_json(text: str) -> Any:
    """What a JSON text says; None when it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_verdict(value: Any, name: str) -> bool:
    """Whether an answer is a desirable one: true or false, 1 or 0, or one of these as text.

    Raises:
        MixalignError: for any other value.
    """
    word = str(value).strip().lower()  # True is also 1, and a table may write 1 as 1.0
    if word in VERDICTS and isinstance(value, bool | int | float | str):
        return VERDICTS[word]
    raise MixalignError(
        f"`{name}` is {show(value)}, but says whether an answer is a desirable one: true or false, or 1 or 0. Correct "
        f"it; if it is no such verdict, declare `columns: {{{name}: null}}`."
    )


def read_weight(value: Any, name: str) -> float:
    """How much a row counts inside its task: a finite number from 0 on, or one as text.

    Raises:
        MixalignError: for any other value.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if 0 <= number < math.inf:
        return number
    raise MixalignError(
        f"`{name}` is {show(value)}, but is how much a row counts inside its task: a finite number from 0 on. Correct "
        f"it; if it is something else, declare `columns: {{{name}: null}}`."
    )


def without_nulls(value: Any) -> Any:
    """The value without the null entries of its objects, at any depth.

    Tables (parquet, arrow, `save_to_disk`) give every object the keys of all objects of a column, null where it had
    none. A null of a JSON file goes as well, so that both say the same. Lists keep theirs: nothing pads a list.
    """
    if isinstance(value, Mapping):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list | tuple) else value

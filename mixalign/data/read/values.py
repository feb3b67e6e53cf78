"""Values of a row: shown in messages, read from JSON text, and freed of the nulls that tables pad objects with."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["Row", "is_empty", "read_json", "show", "without_nulls"]

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


def without_nulls(value: Any) -> Any:
    """The value without the null entries of its objects, at any depth.

    Tables (parquet, arrow, `save_to_disk`) give every object the keys of all objects of a column, null where it had
    none. A null of a JSON file goes as well, so that both say the same. Lists keep theirs: nothing pads a list.
    """
    if isinstance(value, Mapping):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list | tuple) else value

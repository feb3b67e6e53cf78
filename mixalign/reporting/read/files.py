"""Text, JSON and YAML of a run folder; a file that cannot be read is named, with the line where there is one."""

import json
import math
from pathlib import Path
from typing import Any

import yaml

from mixalign.errors import MixalignError

__all__ = ["RunConfig", "number", "parse_object", "read_object", "read_settings", "read_text"]

RunConfig = dict[str, Any]


def number(value: object) -> float:
    """`value` as a finite float; NaN for null, text, infinities and whole numbers beyond a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        amount = float(value)
    except OverflowError:
        return math.nan
    return amount if math.isfinite(amount) else math.nan


def read_text(path: Path) -> str:
    """The whole file, line ends as they are.

    Raises:
        MixalignError: It cannot be opened, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise MixalignError(
            f"`{path}` is not UTF-8 text (byte {error.object[error.start]:#04x} at place {error.start}): it is "
            "damaged or was saved in another encoding. Restore or remove it."
        ) from error
    except OSError as error:
        raise MixalignError(f"`{path}` cannot be read: {error.strerror}.") from error


def read_object(path: Path) -> RunConfig:
    """The object in a JSON file; empty when there is no file.

    Raises:
        MixalignError: It cannot be read, or holds something else.
    """
    return parse_object(read_text(path), path) if path.is_file() else {}


def parse_object(text: str, path: Path, first_line: int = 1) -> RunConfig:
    """The object in some lines of a JSON file.

    Args:
        first_line: Place of the text in the file, for messages.

    Raises:
        MixalignError: They are not JSON, or hold something else.
    """
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = first_line + getattr(error, "lineno", 1) - 1
        reason = getattr(error, "msg", "it is nested too deeply")
        raise MixalignError(f"`{path}`, line {line}, is not valid JSON: {reason}. Remove or rewrite it.") from error
    if not isinstance(value, dict):
        raise MixalignError(f"`{path}`, line {first_line}, holds {type(value).__name__}; an object is wanted.")
    return value


def read_settings(path: Path) -> RunConfig:
    """The mapping in a YAML file.

    Raises:
        MixalignError: It cannot be read, or holds something else.
    """
    try:
        config = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise MixalignError(f"`{path}`{line} is not valid YAML: {_first_line(error)}.") from error
    if not isinstance(config, dict):
        raise MixalignError(f"`{path}` holds {type(config).__name__}; a mapping of settings is wanted.")
    return config


def _first_line(error: Exception) -> str:
    return (str(getattr(error, "problem", "") or error).splitlines() or ["unreadable"])[0]

"""Overrides whose value Hydra's grammar cannot take as it stands, such as paths with `=`, spaces or accents."""

import os
import re
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from mixalign.errors import MixalignError

__all__ = ["check_whole", "in_quotes", "quoted"]

ASSIGNMENT = re.compile(r"(?P<key>[+~]{0,2}[\w./@:-]+)=(?P<value>.+)", re.DOTALL)
SURE = re.compile(r"[+~]{0,2}[\w./@:-]+=[\w./:+-]*", re.ASCII)  # what the grammar takes for certain
ENTRY = re.compile(r"[a-z_]+:(?!//).*", re.DOTALL)  # of a mapping: path:a.jsonl
_TAKEN_APART = "`{text}` is a part of an argument: the shell took it apart {what}. Put quotes around it: {whole}"
COMPOSITE = ("[", "{", "'", '"')  # beginnings of a list, a mapping, a text in quotes


def quoted(text: str) -> str:
    """An override as Hydra reads it: with quotes around its value where that is a file or folder which wants them.

    Raises:
        MixalignError: when it cannot be read and its value is nothing that is there, with the override to write.
    """
    match = ASSIGNMENT.fullmatch(text)
    if match is None or text.startswith("-") or SURE.fullmatch(text):
        return text
    key, value = match["key"], match["value"]
    failure = _failure(text)
    if (failure or "," in value) and _is_there(value):
        return f"{key}={in_quotes(value)}"
    if failure is None:
        return text
    if value.startswith(COMPOSITE):
        raise MixalignError(
            f"`{text}` cannot be read: {failure}. In lists and mappings, texts with characters other than letters, "
            "digits and -_./:+ want quotes, as in 'key={path: \"a (1).jsonl\"}'."
        )
    raise MixalignError(
        f"`{text}` cannot be read: {failure}. A value with such characters wants quotes, and the shell wants some "
        f"around them: {shlex.quote(f'{key}={in_quotes(value)}')}"
    )


def check_whole(overrides: Sequence[str]) -> None:
    """Refuses what the shell took apart: a list or mapping with blanks, or one in braces, that has no quotes around it.

    Raises:
        MixalignError: with the argument to write.
    """
    entries: dict[str, list[str]] = {}
    for number, text in enumerate(overrides):
        match = ASSIGNMENT.fullmatch(text)
        if match is None:
            continue
        if match["value"].startswith(("{", "[")) and _open(text) > 0 and not _is_there(match["value"]):
            ends = (n for n in range(number + 2, len(overrides) + 1) if _open(" ".join(overrides[number:n])) <= 0)
            whole = " ".join(overrides[number : next(ends, number + 1)])
            if whole != text:
                raise MixalignError(_TAKEN_APART.format(text=text, what="at its blanks", whole=shlex.quote(whole)))
        if ENTRY.fullmatch(match["value"]):
            entries.setdefault(match["key"], []).append(match["value"])
    for key, values in entries.items():
        if len(values) > 1:  # what a shell makes of {a:1,b:2}
            whole = shlex.quote(f"{key}={{{', '.join(values)}}}")
            raise MixalignError(_TAKEN_APART.format(text=f"{key}={values[0]}", what="at its braces", whole=whole))


def _open(text: str) -> int:
    """Brackets that are not closed."""
    return sum(text.count(sign) for sign in "{[") - sum(text.count(sign) for sign in "}]")


def _failure(text: str) -> str | None:
    """What Hydra's parser has against an override, in one line."""
    try:
        _parser().parse_override(text)
    except HydraException as error:
        return str(error).splitlines()[0].rstrip(".")
    return None


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _is_there(value: str) -> bool:
    try:
        return "://" in value or Path(os.path.expanduser(value)).exists()
    except (OSError, ValueError, RuntimeError):  # too long for a path, a null byte, no such user
        return False


def in_quotes(value: str) -> str:
    """A text in double quotes: of those within, and of backslashes before one, each gets a backslash."""
    inner = re.sub(r'(\\*)"', r'\1\1\\"', value)
    inner = re.sub(r"(\\+)$", r"\1\1", inner)
    return f'"{inner}"'

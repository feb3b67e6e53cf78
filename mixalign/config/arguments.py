"""Settings as Python objects to overrides: `steps=500, optimizer={"lr": 1e-4}` to `steps=500 optimizer.lr=0.0001`."""

import re
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from typing import Any

from mixalign.config.quote import in_quotes
from mixalign.errors import MixalignError

__all__ = ["overrides_of"]

NAME = re.compile(r"[\w-]+", re.ASCII)


def overrides_of(settings: Mapping[str, Any]) -> list[str]:
    """The overrides that say the same as some settings, each as on the command line.

    Args:
        settings: key to a text, number, flag, None, path, list, or a mapping of keys below it. Of a group, such as
            `mixer`, a text chooses the entry, and a mapping sets keys of the chosen one.

    Raises:
        MixalignError: naming the argument that no override can say.
    """
    return [override for name, value in settings.items() for override in _overrides(name, value)]


def _overrides(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for name, below in value.items():
            yield from _overrides(f"{key}.{_checked(key, name)}", below)
    else:
        yield f"{key}={_text(key, value)}"


def _checked(key: str, name: Any) -> str:
    if isinstance(name, str) and NAME.fullmatch(name):
        return name
    raise MixalignError(
        f"`{key}` has the key {name!r}, but a key is a text of letters, digits, - and _. Name it otherwise, or say it "
        "in a configuration file."
    )


def _text(key: str, value: Any) -> str:
    """A value in the grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(float(value)) if isinstance(value, float) else str(int(value))
    if isinstance(value, str | PathLike):
        return in_quotes(str(fspath(value)))
    if isinstance(value, list | tuple):
        return f"[{','.join(_text(key, entry) for entry in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_checked(key, name)}:{_text(key, entry)}" for name, entry in value.items()) + "}"
    raise MixalignError(
        f"`{key}` is {value!r:.80}, a {type(value).__name__}, but settings are texts, numbers, flags, None, paths, and "
        "lists or dicts of them. Objects of your own go into a script of your own: examples/own_script.py."
    )

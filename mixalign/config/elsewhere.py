"""Where the configuration has a word that is no key: as a key of a group, or as an entry of one."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mixalign.config.task_keys import task_keys
from mixalign.training.foreign_names import NEAR, meant

__all__ = ["CONF", "key_of_group", "nearest_key"]

_PACKAGE = Path(__file__).resolve().parent.parent
CONF = next(p for p in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if (p / "train.yaml").is_file())
"""The folder of the configuration: inside the package in a wheel, beside it in a checkout."""

INNER = {"mixer": "wrap", "data": "tasks"}
"""Group -> the key of it whose own keys are often given one level too high."""


def nearest_key(key: str, known: Iterable[str], config: Mapping[str, Any]) -> str:
    """A sentence on what may be meant by a key that the top of the configuration does not have.

    Args:
        known: keys of the top.
        config: all of it: name -> key -> value.
    """
    places = [f"{name}.{key}" for name, node in config.items() if isinstance(node, Mapping) and key in node]
    places += [place for name, node in config.items() if (place := _further_in(str(name), key, node))]
    places.sort()
    places += [f"{entry.parent.name}={key}" for entry in sorted(CONF.glob("*/*.yaml")) if entry.stem == key]
    if not places:
        return meant(key, known)
    return f"Did you mean {' or '.join(f'`{place}`' for place in places)}?"


def key_of_group(group: str, key: str, known: Iterable[str], node: Mapping[str, Any]) -> str:
    """The same of a key that a group does not have.

    Args:
        known: keys of the group.
        node: the group as it is configured.
    """
    if place := _further_in(group, key, node):
        return f"Did you mean `{place}`?"
    hint = meant(key, known)
    if group == "data" and hint.startswith("Known"):
        near = get_close_matches(key, [entry.path for entry in task_keys()], 1, NEAR)
        return f"Did you mean `data.tasks.<name>.{near[0]}`?" if near else hint
    return hint


def _further_in(group: str, key: str, node: Any) -> str:
    """Where a key stands that is one of each task's, or of another mapping inside of a group; else empty."""
    if group not in INNER or not isinstance(node, Mapping) or key in node:
        return ""
    if group == "data" and any(entry.path == key for entry in task_keys()):
        return f"data.tasks.<name>.{key}"
    inner = node.get(INNER[group])
    return f"{group}.{INNER[group]}.{key}" if isinstance(inner, Mapping) and key in inner else ""

"""Where the configuration has a word that is no key: as a key of a group, or as an entry of one."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mixalign.training.foreign_names import meant

__all__ = ["CONF", "nearest_key"]

_PACKAGE = Path(__file__).resolve().parent.parent
CONF = next(p for p in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if (p / "train.yaml").is_file())
"""The folder of the configuration: inside the package in a wheel, beside it in a checkout."""


def nearest_key(key: str, known: Iterable[str], config: Mapping[str, Any]) -> str:
    """A sentence on what may be meant by a key that the top of the configuration does not have.

    Args:
        known: keys of the top.
        config: all of it: name -> key -> value.
    """
    places = [f"{name}.{key}" for name, node in config.items() if isinstance(node, Mapping) and key in node]
    places.sort()
    places += [f"{entry.parent.name}={key}" for entry in sorted(CONF.glob("*/*.yaml")) if entry.stem == key]
    if not places:
        return meant(key, known)
    return f"Did you mean {' or '.join(f'`{place}`' for place in places)}?"

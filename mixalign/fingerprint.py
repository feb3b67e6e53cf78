"""Short names for recipes, and the differences between two of them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["differences", "fingerprint"]


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of a JSON-like mapping; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def differences(got: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One `key: got x, wanted y` for each setting in which two recipes differ, nested keys dotted."""
    out = []
    for key in sorted({*got, *wanted}):
        a, b = got.get(key), wanted.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            out += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            out.append(f"{prefix}{key}: got {a!r}, wanted {b!r}")
    return out

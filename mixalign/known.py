"""What was found out before: small JSON files of a cache, each with all that decides what it says."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixalign.errors import MixalignError
from mixalign.files import exact_json, may_write, read_json, write_text
from mixalign.fingerprint import fingerprint

__all__ = ["content_hash", "keep", "recall"]

FOLDER = "known"  # of a cache


def content_hash(path: Path) -> str:
    """Of all bytes of a file: what is kept of it trusts no name, size or time. A second is enough for a gigabyte."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recall(cache: Path, recipe: Mapping[str, Any]) -> Any:
    """What was kept by the same recipe; None where nothing was, or the file is damaged."""
    try:
        content = read_json(_place(cache, recipe))
        return content["found"] if content["recipe"] == recipe else None
    except (OSError, MixalignError, KeyError):
        return None


def keep(cache: Path, recipe: Mapping[str, Any], found: Any) -> None:
    """Keeps it, if JSON gives back the same, in a cache that is there: a command that is refused makes none."""
    path, text = _place(cache, recipe), exact_json({"recipe": recipe, "found": found})
    if text is not None and cache.is_dir() and may_write(path.parent):
        write_text(path, text)


def _place(cache: Path, recipe: Mapping[str, Any]) -> Path:
    return cache / FOLDER / f"{fingerprint(recipe)}.json"

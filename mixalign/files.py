"""Files and folders that are written whole or not at all."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixalign.errors import MixalignError

__all__ = ["replacing", "write_json", "write_text"]

FULL = (errno.ENOSPC, errno.EDQUOT)
LITTLE = 2**20  # bytes; with less than that on the disk, a failure to write is taken for a full disk


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a place beside `path` to write a file or a folder to, and moves it to `path` afterwards.

    Nobody ever sees half of it, also after a kill or a power cut; when writing fails, nothing is left behind and what
    was at `path` stays. An older folder at `path` is removed first, since a folder cannot be replaced in one move.

    Raises:
        MixalignError: when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    _remove(part)  # of a process that was killed and had the same number
    try:
        yield part
        if part.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            _flush(part)
        os.replace(part, path)
    except Exception as error:
        if _is_full(error, path.parent):
            raise MixalignError(
                f"The disk is full: {path} could not be written, and what was there is unharmed. Make room, and start "
                "the same command again: it goes on from the last checkpoint."
            ) from error
        raise
    finally:
        _remove(part)


def _is_full(error: Exception, folder: Path) -> bool:
    """Whether a failure to write comes from a full disk, which libraries tell in words of their own."""
    if isinstance(error, MixalignError):
        return False
    known = getattr(error, "errno", None) in FULL or "No space left" in str(error)
    return known or shutil.disk_usage(folder).free < LITTLE


def _flush(path: Path) -> None:
    """Onto the disk, so that the name does not get there before the content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replaces the file's content."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Replaces the file's content by JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")

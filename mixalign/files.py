"""Files and folders that are written whole or not at all."""

import errno
import json
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mixalign.errors import MixalignError

__all__ = [
    "LOCK",
    "NewFolder",
    "append",
    "copy_whole",
    "exact_json",
    "may_write",
    "nameless_file",
    "read_json",
    "read_numbers",
    "replacing",
    "write_json",
    "write_text",
]

LOCK = "run.lock"
UNUSED = {LOCK, "train.log"}  # all that a command leaves in a run folder before its run begins

FULL = (errno.ENOSPC, errno.EDQUOT)
LITTLE = 2**20  # bytes; with less than that on the disk, a failure to write is taken for a full disk


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a place beside `path` to write a file or a folder to, and moves it to `path` afterwards.

    Nobody ever sees half of it, also after a kill or a power cut; when writing fails, nothing is left behind and what
    was at `path` stays. An older folder at `path` is moved aside first, since it cannot be replaced in one move.

    Raises:
        MixalignError: when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    old = path.with_name(f".{path.name}.old")
    _remove(part)  # of a process that was killed and had the same number
    try:
        yield part
        for file in filter(Path.is_file, [part, *part.rglob("*")]):
            _flush(file)
        if path.is_dir() or (part.is_dir() and path.exists()):
            _remove(old)
            os.rename(path, old)
        os.replace(part, path)
    except Exception as error:
        if _is_full(error, path.parent):
            raise _full(path) from error
        raise
    finally:
        for rest in (part, old):
            _remove(rest)


@contextmanager
def adding_to(path: Path) -> Iterator[None]:
    """For lines that are added to a file, of which the last may be torn.

    Raises:
        MixalignError: when the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise _full(path) from error
        raise


def _full(path: Path) -> MixalignError:
    return MixalignError(
        f"The disk is full: {path} could not be written, and what was there is unharmed. Make room, and start the same "
        "command again: it goes on from the last checkpoint."
    )


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


def may_write(path: Path) -> bool:
    """Whether this user may make or change things in a folder, or make it where it is not there yet."""
    path = path.absolute()
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    return os.access(there, os.W_OK | os.X_OK)


def copy_whole(source: Path, path: Path) -> None:
    """Copies a file or a folder, where there is one at another place than `path`."""
    if source.resolve() == path.resolve() or not source.exists():
        return
    with replacing(path) as part:
        shutil.copytree(source, part) if source.is_dir() else shutil.copyfile(source, part)


def write_text(path: Path, text: str) -> None:
    """Replaces the file's content."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        MixalignError: when the file is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also of the encoding
        raise MixalignError(f"{path} is damaged ({error}). Delete it to have it made again.") from error
    if not isinstance(found, dict):
        raise MixalignError(f"{path} holds a {type(found).__name__} in place of an object. Delete it.")
    return found


def exact_json(content: Any) -> str | None:
    """The text of it in ASCII, where reading that gives back the same."""
    try:
        text = json.dumps(content)
        return text if json.loads(text) == content else None
    except (TypeError, ValueError, RecursionError):  # of dates, arrays, what is nested too deep
        return None


def write_json(path: Path, content: Any) -> None:
    """Replaces the file's content by JSON, which has no infinity and no nan: they become null."""
    finite = _each(content, lambda value: None if isinstance(value, float) and not math.isfinite(value) else value)
    write_text(path, json.dumps(finite, indent=2) + "\n")


def read_numbers(path: Path) -> dict[str, Any]:
    """The same as `read_json`, of what has no null of its own: null, a number that was not finite, is nan again."""
    numbers: dict[str, Any] = _each(read_json(path), lambda value: math.nan if value is None else value)
    return numbers


def _each(node: Any, change: Callable[[Any], Any]) -> Any:
    """The same with every single value changed."""
    if isinstance(node, Mapping):
        return {key: _each(value, change) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_each(value, change) for value in node]
    return change(node)


@dataclass(frozen=True)
class NewFolder:
    """A folder that a command may make, looked at before it does.

    Attributes:
        path: the folder.
        missing: those of it and the ones above it that are not there, from the folder upwards.
    """

    path: Path
    missing: tuple[Path, ...]

    @classmethod
    def of(cls, path: Path) -> "NewFolder":
        path = path.absolute()
        return cls(path, tuple(place for place in (path, *path.parents) if not os.path.lexists(place)))

    def remove_if_unused(self) -> None:
        """Removes what was made since, unless a run began in it: more than its log and its lock is there."""
        if not self.missing or not self.path.is_dir() or {entry.name for entry in self.path.iterdir()} - UNUSED:
            return
        with suppress(OSError, Timeout), FileLock(self.path / LOCK, timeout=0):  # else somebody uses them meanwhile
            for name in UNUSED:
                (self.path / name).unlink(missing_ok=True)
            for folder in self.missing:
                folder.rmdir()


def nameless_file(owner: object) -> Any:
    """A file for reading and writing, in the folder for temporary files, that is gone with its owner or the process."""
    file = tempfile.TemporaryFile(prefix="mixalign-")  # noqa: SIM115
    weakref.finalize(owner, file.close)
    return file


def append(file: Any, data: bytes) -> None:
    """Writes at the end of a nameless file, so that it can be read.

    Raises:
        MixalignError: when the disk is full.
    """
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise MixalignError(
            f"The disk of {tempfile.gettempdir()} is full, where rows lie while they are read. Make room, or have the "
            "environment variable TMPDIR name another folder."
        ) from error

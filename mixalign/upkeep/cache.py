"""What lies in a cache, and what of it nobody needs any more: everything there can be made again."""

import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mixalign.errors import MixalignError, did_you_mean
from mixalign.locks import acquire, lock_on

__all__ = ["KINDS", "Entry", "at_work", "entries", "remove", "select", "size_text"]

KINDS = {  # folder of a cache -> what it holds
    "reference": "reference policies, other starts",
    "specialists": "a model a task, for its excess",
    "baseline": "models that mixers compare with",
    "rounds": "first rounds of mixer=ideal",
    "gguf": "models made out of GGUF files",
    "unfinished": "checkpoints of trainings",
    "scores": "losses of rows, frozen models",
    "tokens": "token ids of large tables",
    "known": "what files of rows and models hold",
    "influence": "benefits that mixer=ideal found",
    "generations": "answers to held-out prompts",
}
LOCKS = "locks"
DAY = 24 * 3600


@dataclass(frozen=True)
class Entry:
    """A folder or file of a cache.

    Attributes:
        kind: of KINDS.
        size: bytes on disk.
        idle_days: days since it was last written or read, as far as the file system says.
    """

    kind: str
    path: Path
    size: int
    idle_days: float


def entries(cache: Path) -> list[Entry]:
    """What mixalign made in a cache; other files there are none of its business.

    Raises:
        MixalignError: when there is no such folder.
    """
    if not cache.is_dir():
        raise MixalignError(f"{cache} is no folder. Name the `cache_dir` of your runs; by default it is runs/cache.")
    found = [_entry(kind, path) for kind in KINDS for path in sorted((cache / kind).glob("*"))]
    return [one for one in found if one is not None]


def _entry(kind: str, path: Path) -> Entry | None:
    """None for what another command has removed meanwhile."""
    size, used = 0, 0.0
    for file in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            found = file.lstat()
            size += found.st_size if not file.is_dir() else 0
            used = max(used, found.st_mtime, found.st_atime if not file.is_dir() else 0.0)
    return Entry(kind, path, size, max(0.0, time.time() - used) / DAY) if used else None


def select(found: Iterable[Entry], kinds: Sequence[str] = (), older: float = 0.0) -> list[Entry]:
    """Those of some kinds (empty: of all) that were not used for `older` days.

    Raises:
        MixalignError: for a kind that there is not.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise MixalignError(f"`{kind}` is no kind of what a cache holds. {did_you_mean(kind, KINDS)}")
    return [one for one in found if one.kind in (kinds or KINDS) and one.idle_days >= older]


def remove(cache: Path, chosen: Iterable[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Removes entries, but for those that a run makes at this moment, or may: of another user's lock nobody knows.

    Returns:
        What was removed, and what was left because it is, or may be, being made.

    Raises:
        MixalignError: when this user may not.
    """
    removed, left = [], []
    for one in chosen:
        if _is_being_made(cache, one, of_another=True):
            left.append(one)
            continue
        try:
            if one.path.is_dir() and not one.path.is_symlink():
                shutil.rmtree(one.path)
            else:
                one.path.unlink(missing_ok=True)
        except PermissionError as error:
            raise MixalignError(
                f"{error.filename or one.path} cannot be removed ({error.strerror}): it is another user's. Ask "
                "them, or leave its kind out."
            ) from error
        removed.append(one)
    return removed, left


def at_work(cache: Path, found: Iterable[Entry]) -> list[Entry]:
    """Those that a run makes at this moment: trainings that go on, and what is being read or scored."""
    return [one for one in found if _is_being_made(cache, one, of_another=False)]


def _is_being_made(cache: Path, one: Entry, of_another: bool) -> bool:
    """Whether a run holds its lock; of what is unfinished, that of the model whose name ends like it.

    Args:
        of_another: what is said where the lock cannot be tried, as it is another user's.
    """
    folder = cache / LOCKS
    locks = [folder / one.kind / one.path.name, *(folder / one.path.name).glob("*")]
    if one.kind == "unfinished":
        locks += folder.glob(f"*{one.path.name}/*")
    return any(_is_held(lock, of_another) for lock in locks if lock.is_file())


def _is_held(path: Path, of_another: bool) -> bool:
    lock = lock_on(path)
    try:
        return not acquire(lock)
    except OSError:  # or on a file system that is only read
        return of_another
    finally:
        lock.release()


def size_text(size: float) -> str:
    """Bytes as people read them: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"

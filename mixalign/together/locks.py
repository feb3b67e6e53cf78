"""Locks between runs that share a cache: what one of them makes, the others wait for.

A lock is the operating system's on an open file, so it ends with its process, however that ends; the file may stay.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from mixalign.errors import MixalignError
from mixalign.files import may_write
from mixalign.together.agree import agree, decide, is_first, wait

__all__ = ["alone", "made_once"]

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two attempts


@contextmanager
def made_once(path: Path, locks: Path) -> Iterator[bool]:
    """Whether a path of a cache is still to be made; every process gets the same answer, and leaves when it is made.

    Of several runs that need the same, one makes it and the others wait: the first process holds a lock. Where the
    path exists no lock is taken, so that a cache may be read-only.

    Args:
        locks: folder of the lock files.

    Raises:
        MixalignError: when it is missing, and this user may not write to its place or to that of the locks.
    """
    if agree(path.exists()):
        yield False
        return
    decide(partial(_check_may_make, path, locks))
    lock = _lock(locks / path.parent.name / path.name)
    try:
        if not agree(not is_first() or _acquire(lock)):
            log.info("waiting for another run, which makes %s", path)
            # in turns: the other processes, which wait for this one, would lose patience with a single long attempt
            while not agree(not is_first() or _acquire(lock, INTERVAL)):
                pass
        yield not agree(path.exists())
        wait()
    finally:
        lock.release()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other run holds a lock file, and holds it; for work of one process."""
    lock = _lock(path)
    try:
        if not _acquire(lock):
            log.info("waiting for another run, which holds %s", path)
            while not _acquire(lock, INTERVAL):
                pass
        yield
    finally:
        lock.release()


def _check_may_make(path: Path, locks: Path) -> None:
    for folder in (path.parent, locks):
        if folder.exists() and not folder.is_dir():
            raise MixalignError(
                f"{folder} is a file, and a folder is wanted there. Remove it, or name another `cache_dir`."
            )
        if not may_write(folder):
            raise MixalignError(
                f"{path} is missing and would have to be made, but this user may not write to {folder}. Have it made "
                "by somebody who may, with the same settings, or name a `cache_dir` or `specialists.dir` of your own."
            )


def _lock(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def _acquire(lock: FileLock, seconds: float = 0) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True

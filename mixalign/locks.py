"""A lock is the operating system's on an open file: it ends with its process, however that ends; the file may stay."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mixalign.errors import MixalignError
from mixalign.files import may_write

__all__ = ["INTERVAL", "acquire", "alone", "check_may_make", "lock_on"]

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two attempts


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other run holds a lock file, and holds it; for work of one process."""
    lock = lock_on(path)
    try:
        if not acquire(lock):
            log.info("waiting for another run, which holds %s", path)
            while not acquire(lock, INTERVAL):
                pass
        yield
    finally:
        lock.release()


def check_may_make(path: Path, locks: Path) -> None:
    """Checks that this user may write what is missing, and the locks around it.

    Raises:
        MixalignError: naming the folder that cannot be written to.
    """
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


def lock_on(path: Path) -> FileLock:
    """A lock that is not held yet; its folder is made.

    Raises:
        MixalignError: when the folder cannot be, as in a file system of the kernel's.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise MixalignError(
            f"{path.parent} cannot be made ({error.filename}: {error.strerror}). Name another `cache_dir` or `run_dir`."
        ) from error
    return FileLock(path)


def acquire(lock: FileLock, seconds: float = 0) -> bool:
    """Whether it is ours, after so many seconds at most."""
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True

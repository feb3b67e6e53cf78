"""One command at a time in a run folder: the first process holds a lock on it, for as long as it works there.

The lock is the operating system's, so it ends with its process, however that ends; the file stays.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from mixalign.errors import MixalignError
from mixalign.files import LOCK, NewFolder, read_json, write_json
from mixalign.together.agree import decide, is_first

__all__ = ["held"]

HOLDER = "holder.json"  # who works in the folder, for the message to others; of no meaning when nobody does


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes a run folder where there is none, and keeps all other commands out of it; all processes enter and leave.

    Where this fails, or what is done in it is refused, a folder that was made here and is not used is removed.

    Raises:
        MixalignError: when another command works in the folder, saying which.
    """
    new, lock, refused = NewFolder.of(folder), FileLock(folder / LOCK), False
    try:
        decide(partial(_take, folder, lock))
        yield
    except MixalignError:
        refused = is_first()
        raise
    finally:
        if lock.is_locked:
            (folder / HOLDER).unlink(missing_ok=True)
            lock.release()
        if refused:
            new.remove_if_unused()


def _take(folder: Path, lock: FileLock) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise MixalignError(
            f"{folder} is in use by another command ({_holder(folder)}). Wait until that ends, or give another "
            "`run_dir`; runs are compared side by side with a `run_dir` each."
        ) from None
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    write_json(folder / HOLDER, {"pid": os.getpid(), "host": socket.gethostname(), "since": since})


def _holder(folder: Path) -> str:
    try:
        found = read_json(folder / HOLDER)
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (OSError, KeyError, MixalignError):  # it has just begun, or just ended
        return "which does not say its name yet"

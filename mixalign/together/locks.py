"""What one of several runs that share a cache makes, the others wait for, with all their processes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mixalign.locks import INTERVAL, acquire, check_may_make, lock_on
from mixalign.together.agree import agree, decide, is_first, wait

__all__ = ["made_once"]

log = logging.getLogger(__name__)


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
    decide(partial(check_may_make, path, locks))
    lock = lock_on(locks / path.parent.name / path.name)
    try:
        if not agree(not is_first() or acquire(lock)):
            log.info("waiting for another run, which makes %s", path)
            # in turns: the other processes, which wait for this one, would lose patience with a single long attempt
            while not agree(not is_first() or acquire(lock, INTERVAL)):
                pass
        yield not agree(path.exists())
        wait()
    finally:
        lock.release()

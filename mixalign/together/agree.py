"""What the processes of a job ask each other: who they are, what the first one says, and what they add up to.

All of it works in a single process as well, which is the first of one.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from mixalign.errors import MixalignError

__all__ = ["agree", "decide", "is_connected", "is_first", "rank", "total", "wait", "world"]

T = TypeVar("T")
# whether the first process does something that the others only wait for; of this thread, as several runs may share a
# process
_alone = ContextVar("_alone", default=False)


def is_connected() -> bool:
    """Whether this process has met others."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process among those of the job; 0 is the first."""
    return dist.get_rank() if is_connected() else 0


def world() -> int:
    """Number of processes of the job."""
    return dist.get_world_size() if is_connected() else 1


def is_first() -> bool:
    """Whether this process is the one that writes, and speaks for all."""
    return rank() == 0


def wait() -> None:
    """Until every process has come here."""
    _check_all_are_here()
    if world() > 1:
        dist.barrier()


def agree(value: T) -> T:
    """The first process's value, on all of them."""
    _check_all_are_here()
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def decide(work: Callable[[], T]) -> T:
    """Has the first process do something alone, and gives what comes of it to all.

    Within the work nothing may be asked of the other processes: they would take it for the next thing that is asked.

    Raises:
        MixalignError: on every process, when the work raised it on the first.
    """
    _check_all_are_here()
    value: Any = None
    if is_first():
        before = _alone.set(True)
        try:
            value = work()
        except MixalignError as error:
            value = error
        finally:
            _alone.reset(before)
    value = agree(value)
    if isinstance(value, MixalignError):
        raise value
    result: T = value
    return result


def total(value: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    _check_all_are_here()
    if world() > 1:
        dist.all_reduce(value)
    return value


def _check_all_are_here() -> None:
    """In a single process as well, so that every test of it would find this defect."""
    if _alone.get():
        raise RuntimeError("one process alone asks all of them: within `decide`, call what asks nobody")

"""Stop now: on SIGTERM, on Ctrl-C and when `max_time` is over; one mechanism for every verb and every stage.

A stage without a state of its own ends at once, and what is in the cache stays. A training notes it and leaves by
itself when it has saved (`mixalign.training.callbacks.leave`).
"""

import _thread
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

from mixalign.errors import Stopped

__all__ = ["check", "heed", "heed_for_good", "hold", "limit", "release", "requested", "stage", "stopped"]

log = logging.getLogger(__name__)
SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)
AT_ONCE = 2  # signals behind the first that end the process without a word, should an exception have got lost
REPEAT = 0.02  # seconds until a stop is raised again that could not be raised where it came


class _Now:
    """What holds for this process; signals are the process's as well.

    Attributes:
        number: of the signal that was heard; 0 for `max_time`, None for none.
        more: interrupts behind it.
        held: whether a training takes the stop up by itself.
        tell: is called then.
        stages: (title, what is kept, how to go on), the outermost first.
        before: handlers that were in place.
        hook: for exceptions that could not be raised; likewise.
        limit: seconds, when `max_time` is set.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.more = 0
        self.held = False
        self.tell: Callable[[], None] | None = None
        self.stages: list[tuple[str, str, str]] = []
        self.before: dict[int, Any] = {}
        self.hook: Callable[[Any], Any] = sys.unraisablehook
        self.limit: float | None = None
        self.over = False
        self.forever: AbstractContextManager[None] | None = None


_now = _Now()


@contextmanager
def heed() -> Iterator[None]:
    """Has this process end by `Stopped` on SIGTERM and Ctrl-C; within another one, and in a thread, it does nothing."""
    if _now.before or threading.current_thread() is not threading.main_thread():
        yield
        return
    _now.number, _now.more, _now.held, _now.stages, _now.over = None, 0, False, [], False
    _now.before = {number: signal.getsignal(number) for number in SIGNALS}
    _now.hook, sys.unraisablehook = sys.unraisablehook, _not_raised
    try:
        for number in SIGNALS:
            signal.signal(number, _hear)
        yield
    finally:
        for number, handler in _now.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        sys.unraisablehook = _now.hook
        _now.before, _now.number, _now.held = {}, None, False


def heed_for_good() -> None:
    """The same until the process ends: for one that does many jobs."""
    if not _now.before:
        _now.forever = heed()
        _now.forever.__enter__()


@contextmanager
def stage(title: str, kept: str = "", again: str = "") -> Iterator[None]:
    """Names what is being done, for the message of a stop.

    Args:
        title: as in `stopped by SIGTERM in ...`; empty for what lies between stages that have one.
        kept: a clause that says what a stop leaves; by default that of the stage around it.
        again: a sentence that says how to go on; likewise.
    """
    _now.stages.append((title, kept, again))
    try:
        yield
    finally:
        _now.stages.pop()


@contextmanager
def limit(seconds: float | None, began: float) -> Iterator[None]:
    """Stops this process as a signal does when its time is over; it then exits with 0, but is not finished.

    Args:
        seconds: since `began`; None for no limit.
        began: as `time.time` gives it.
    """
    if seconds is None:
        yield
        return
    _now.limit, _now.over = seconds, False
    timer = threading.Timer(max(0.0, began + seconds - time.time()), _time_is_over)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _now.limit, _now.over = None, False


def _time_is_over() -> None:
    _now.over = True
    if _now.before:
        _thread.interrupt_main(signal.SIGTERM)
    elif _now.number is None:
        _now.number = 0  # without handlers, a training still looks at it


def _hear(number: int, frame: FrameType | None) -> None:
    if _now.over and number == signal.SIGTERM and _now.number is None:
        number = 0
    first = _now.number is None
    if first:
        _now.number = number
    elif number == signal.SIGINT:
        _now.more += 1
    if _now.more >= AT_ONCE:
        os._exit(128 + signal.SIGINT)
    if not _now.held or _now.more:
        raise stopped("" if not _now.held else "what it had not saved is lost")
    if first:
        again = " (again: at once)" * (number == signal.SIGINT)
        log.warning("%s: saving after this step%s", _cause(), again)
        if _now.tell is not None:
            _now.tell()


def _not_raised(what: Any) -> None:
    """A stop that came inside of a destructor, or of a weak reference's callback, ends nothing: it is repeated."""
    if not isinstance(what.exc_value, Stopped):
        _now.hook(what)
        return
    timer = threading.Timer(REPEAT, _thread.interrupt_main, [signal.SIGTERM])
    timer.daemon = True
    timer.start()


def hold(tell: Callable[[], None] | None = None) -> None:
    """From here on a stop is noted only: who calls this asks `requested`.

    Args:
        tell: called when the process is told to stop.
    """
    _now.held, _now.tell = True, tell


def release() -> None:
    """Ends what `hold` began."""
    _now.held, _now.tell = False, None


def requested() -> bool:
    """Whether this process was told to stop."""
    return _now.number is not None


def check() -> None:
    """Ends here if this process was told to stop.

    Raises:
        Stopped: then.
    """
    if requested():
        raise stopped()


def stopped(kept: str = "") -> Stopped:
    """The exception that ends the process: which stage it was in, what is kept, and how to go on.

    Args:
        kept: a clause; by default that of the innermost stage that has one.
    """
    title = _now.stages[-1][0] if _now.stages else ""
    kept = kept or next((text for _, text, _ in reversed(_now.stages) if text), "")
    again = next((text for _, _, text in reversed(_now.stages) if text), "")
    where = f" in {title}" if title else ""
    number = signal.SIGTERM if _now.number is None else _now.number  # another process was told
    verb = f"stopped {_cause()}, not finished," if number == 0 else f"stopped by {signal.Signals(number).name}"
    text = f"{verb}{where}".rstrip(",") + (f"; {kept}" if kept else "") + f". {again}".rstrip()
    return Stopped(text, 128 + number if number else 0)


def _cause() -> str:
    if _now.number == 0:
        return f"after `max_time` ({_now.limit:g} s)" if _now.limit is not None else "after `max_time`"
    return signal.Signals(_now.number or signal.SIGTERM).name

"""Standard output and error: one that is full, closed or knows few letters never ends a command whose work is done."""

import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["StandardError", "finish", "heard", "is_lost", "lenient", "say"]


class StandardError(io.TextIOBase):
    """Standard error as it is now; what it cannot take, as behind a closed pipe or on a full disk, is lost."""

    @property
    def _stream(self) -> Any:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # a bar puts a stand-in there

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError, AttributeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def isatty(self) -> bool:
        return bool(self._stream is not None and self._stream.isatty())

    def fileno(self) -> int:
        return int(self._stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"


def say(text: str) -> str:
    """Prints the result of a command, at once; files that belong to it are written before.

    Letters that standard output cannot write are escaped as Python escapes them.

    Returns:
        Why it could not be written; empty when it was, and when nobody reads it any more, as behind `| head -1`.
    """
    if sys.stdout is None:  # it was closed by the shell: >&-
        return ""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except (OSError, ValueError) as error:  # ValueError: it was closed
        _drop(sys.stdout)
        return "" if isinstance(error, BrokenPipeError) else _reason(error)
    return ""


def lenient() -> None:
    """Has standard output escape the letters that it cannot write, for what other libraries print."""
    if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
        reconfigure(errors="backslashreplace")


def is_lost(stream: Any = None) -> bool:
    """Whether a stream, by default standard output, cannot be written any more."""
    stream = stream or sys.stdout
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        return True
    return False


def finish() -> None:
    """Writes what is left in buffers; without it Python says at the exit that it could not, and exits with 120."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and is_lost(stream):
            _drop(stream)


def _drop(stream: Any) -> None:
    """From here on nothing is written to it."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _reason(error: OSError | ValueError) -> str:
    code = getattr(error, "errno", None)
    return os.strerror(code if code is not None else errno.EBADF)


@contextmanager
def heard(name: str, level: int = logging.NOTSET) -> Iterator[list[logging.LogRecord]]:
    """What a logger and those below it log meanwhile, of this level and above; the log says it as ever."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(level)
    handler.emit = lambda record: records.append(record)  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)

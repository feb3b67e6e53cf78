"""Reads rows in chunks, in this process or in others; leaves out torch, as a worker imports this file."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mixalign.data.tokens.chunk import TokenChunk
from mixalign.data.tokens.reader import Reader
from mixalign.errors import MixalignError

if TYPE_CHECKING:
    from mixalign.types import Example

__all__ = ["CHUNK", "read_chunks"]

CHUNK = 1024  # examples tokenised at once: enough for all threads, and the encodings are freed in between
PATIENCE = 10  # seconds for a killed process to be gone


def read_chunks(reader: Reader, examples: Sequence[Example], workers: int) -> Iterator[TokenChunk]:
    """All rows in their order, at least one chunk; one worker is this process.

    Raises:
        MixalignError: that of the first row which cannot be used, or when a worker was ended.
    """
    starts = range(0, max(1, len(examples)), CHUNK)
    if workers == 1:
        for start in starts:
            yield reader.read(examples[start : start + CHUNK], start + 1)
        return
    crew = _Crew()
    try:
        crew.hire(reader, workers)
        yield from crew.read(examples, starts)
    except (EOFError, OSError, pickle.UnpicklingError) as error:  # of a pipe whose other end is gone
        raise MixalignError(
            f"{reader.where}: one of the {workers} processes that tokenise was ended by somebody, or by the system "
            "when memory ran out. Start again with a smaller number in `data.workers`; 1 does without them."
        ) from error
    finally:
        crew.dismiss()


class _Crew:
    """Processes that read chunks, each with a pipe of its own.

    A pool of the standard library shares queues and their locks between workers: one that is killed with a lock in hand
    leaves the others, and the pool's shutdown, waiting for ever (seen in CPython 3.11). The pipe of a process that is
    gone is at its end, whenever it goes.
    """

    def __init__(self) -> None:
        self.processes: list[Any] = []
        self.pipes: list[Connection] = []

    def hire(self, reader: Reader, workers: int) -> None:
        # not forked: torch and the tokenizer may have threads, whose locks a copy of this process would never get
        context = get_context("spawn")
        for _ in range(workers):
            ours, theirs = context.Pipe()
            self.pipes.append(ours)
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            with _without_main():
                process.start()
            self.processes.append(process)
            theirs.close()  # so that the pipe is at its end once the worker is gone
        for pipe in self.pipes:
            pipe.send(reader)

    def read(self, examples: Sequence[Example], starts: Sequence[int]) -> Iterator[TokenChunk]:
        """The chunks in their order; each worker has one at a time."""
        left, done = iter(starts), dict[int, TokenChunk | Exception]()
        busy: dict[Any, int] = {}

        def give(pipe: Connection) -> None:
            if (start := next(left, None)) is not None:
                pipe.send((examples[start : start + CHUNK], start + 1))
                busy[pipe] = start

        for pipe in self.pipes:
            give(pipe)
        for start in starts:
            while start not in done:
                ready: list[Any] = wait(list(busy))
                for pipe in ready:
                    done[busy.pop(pipe)] = pipe.recv()
                    give(pipe)
            made = done.pop(start)
            if isinstance(made, Exception):
                raise made
            yield made

    def dismiss(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(PATIENCE)


@contextmanager
def _without_main() -> Iterator[None]:
    """A spawned process imports the script that started it, and runs it again where it has no `__main__` guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(pipe: Connection) -> None:
    """Reads chunks until the pipe is at its end, as when the process that started this one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the other workers have the other cores
    with suppress(EOFError, OSError):
        reader = pipe.recv()
        while True:
            pipe.send(_outcome(reader, *pipe.recv()))


def _outcome(reader: Reader, examples: Sequence[Example], first: int) -> TokenChunk | Exception:
    try:
        return reader.read(examples, first)
    except Exception as error:
        return error

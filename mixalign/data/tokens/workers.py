"""Reads rows in chunks, in this process or in a pool of others; leaves out torch, as a worker imports this file."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from types import ModuleType
from typing import TYPE_CHECKING

from mixalign.data.tokens.chunk import TokenChunk
from mixalign.data.tokens.reader import Reader
from mixalign.errors import MixalignError

if TYPE_CHECKING:
    from mixalign.types import Example

__all__ = ["CHUNK", "read_chunks"]

CHUNK = 1024  # examples tokenised at once: enough for all threads, and the encodings are freed in between


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
    # not forked: torch and the tokenizer may have threads, whose locks a copy of this process would never get
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (reader,))
    try:
        with _without_main():
            parts = [pool.submit(_work, examples[start : start + CHUNK], start + 1) for start in starts]
        for part in parts:
            yield part.result()
    except BrokenProcessPool as error:
        raise MixalignError(
            f"{reader.where}: one of the {workers} processes that tokenise was ended by somebody, or by the system "
            "when memory ran out. Start again with a smaller number in `data.workers`; 1 does without them."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _without_main() -> Iterator[None]:
    """A spawned process imports the script that started it, and runs it again where it has no `__main__` guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_held: list[Reader] = []  # in a worker: the one reader that it uses for all chunks


def _start(reader: Reader) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the other workers have the other cores
    _held.append(reader)


def _end_with_parent() -> None:
    """A worker waits for work for ever; nobody sends any when the process that started it was killed."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _work(examples: Sequence[Example], first: int) -> TokenChunk:
    return _held[0].read(examples, first)

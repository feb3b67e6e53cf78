"""Processes for tests that need several: forked, so that the libraries are loaded already."""

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120

forks = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
"""For tests that call `fork`."""


def fork(work: Callable[..., None], *arguments: object) -> BaseProcess:
    """A process that does some work; a test must `end` it."""
    process = get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def end(*processes: BaseProcess) -> None:
    for process in processes:
        with suppress(ValueError):
            process.kill()
            process.join(60)


def run_module(source: str, folder: Path) -> int:
    """Runs `main()` of a module in a process of its own, and gives its exit code.

    Args:
        source: the module's code; processes that it starts can import it as `work`.
        folder: gets `work.py`, `out` and `err`, and is where the process works and keeps temporary files.
    """
    (folder / "work.py").write_text(source)
    process = fork(_run, folder)
    try:
        process.join(SECONDS)
        assert process.exitcode is not None, (folder / "err").read_text()
        return process.exitcode
    finally:
        end(process)


def _run(folder: Path) -> None:
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))  # not those of pytest
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    tempfile.tempdir = str(folder)
    sys.path.insert(0, str(folder))
    import_module("work").main()

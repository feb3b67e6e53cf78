"""The other processes of one machine: how the first one starts them, and what it says when one dies or hangs.

The first process is the one that the user started, so that its terminal, signals, exit code and result stay its own.
`elastic_launch` of torch 2.13 was tried in place of this: it makes a child of the first process as well, to which all
of these would have to be handed on; torch's `start_processes` would spare `_start` only. With both, a child that
handles SIGINT, as ours do, outlives a parent that is killed.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from mixalign import stopping
from mixalign.config.console import quiet_libraries
from mixalign.config.parse import parse
from mixalign.errors import MixalignError, Stopped
from mixalign.together.agree import agree, is_connected

__all__ = ["disconnect", "started_others", "take_part"]

GRACE = 10.0  # seconds in which a broken connection should be noticed
START = 300.0  # seconds that a process may take to load its libraries, whatever `trainer.timeout` says
HOST, LAST_LINES = "127.0.0.1", 15
AGAIN = "Start the same command again: it goes on from the last checkpoint."


def _meet(store: TCPStore, rank: int, size: int, patience: timedelta) -> None:
    # without a named backend there are two where there are GPUs, so that tensors of the host can travel as well
    dist.init_process_group(store=store, rank=rank, world_size=size, timeout=patience)


def disconnect() -> None:
    """Leaves the group of processes, if this one is in any."""
    if is_connected():
        dist.destroy_process_group()


@contextmanager
def started_others(size: int, job: str, plain: Mapping[str, Any], patience: timedelta) -> Iterator[None]:
    """Starts the other processes of this machine on the same job, and ends them with it, however it ends.

    Args:
        size: number of processes, with this one.
        job: `module:name` of the function that they call, with settings and without further arguments.
        plain: the settings as plain data; they travel by the connection, so no file has them.
        patience: how long a process waits for another one.

    Raises:
        MixalignError: for a process that died or hung, with what it said.
    """
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    with TemporaryDirectory(prefix="mixalign-") as name:
        folder = Path(name)
        os.environ["LOCAL_RANK"] = "0"  # tells Lightning to start nobody
        task = [str(folder), str(store.port), str(patience.total_seconds()), job]
        children = [_start(task, number, size) for number in range(1, size)]
        try:
            with _watched(children, folder):
                _wait_for_start(children, store, patience)
                _meet(store, 0, size, patience)
                agree(plain)
                yield
                for child in children:
                    child.wait(patience.total_seconds())
        except Exception as error:
            _blame(error, children, folder)
            raise
        finally:
            for child in children:
                child.kill()
            for child in children:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(GRACE)


def _start(task: Sequence[str], number: int, size: int) -> subprocess.Popen[bytes]:
    env = os.environ | {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(size)}
    code = "import sys; from mixalign.together.children import take_part; take_part(*sys.argv[1:])"
    with (Path(task[0]) / f"{number}.log").open("wb") as log:
        command = [sys.executable, "-c", code, *task]
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def _wait_for_start(children: Sequence[subprocess.Popen[bytes]], store: TCPStore, patience: timedelta) -> None:
    end = time.monotonic() + max(START, patience.total_seconds())
    for number, child in enumerate(children, 1):
        while not store.check([f"started {number}"]):
            if child.poll() is not None:
                raise RuntimeError(f"process {number} did not start")
            if time.monotonic() > end:
                raise RuntimeError(f"timed out waiting for process {number} to start")
            time.sleep(0.1)


@contextmanager
def _watched(children: Sequence[subprocess.Popen[bytes]], folder: Path) -> Iterator[None]:
    """Ends this process when another one has died and it does not notice, because it computes or waits for a GPU."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            dead = next((number for number, child in enumerate(children, 1) if child.poll()), 0)
            if not dead or over.wait(GRACE):
                continue
            print(f"error: {_last_words(dead, children[dead - 1], folder)}", file=sys.stderr, flush=True)
            for child in children:
                child.kill()
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _blame(error: Exception, children: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    """When another process failed first, which here is a broken connection: says what it said, or raises its error."""
    if isinstance(error, MixalignError):
        return
    stopping.check()  # else the connection broke because the others were told to stop as well
    if refusals := sorted(folder.glob("*.error")):  # written before the connection broke, unlike an exit status
        raise MixalignError(refusals[0].read_text()) from None
    if stops := sorted(folder.glob("*.stopped")):
        raise Stopped(stops[0].read_text(), 128 + signal.SIGTERM) from None
    for number, child in enumerate(children, 1):
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        if child.returncode:
            words = _last_words(number, child, folder)
            if child.returncode < 0:
                raise MixalignError(words) from None
            error.add_note(words)
    if re.search("time(d )?out", str(error), re.IGNORECASE):
        first_line = str(error).strip().partition("\n")[0]
        raise MixalignError(
            f"A process has waited longer than `trainer.timeout` for another one ({first_line}). Raise it if "
            f"they do such different work; else look for the one that hangs. {AGAIN}"
        ) from error


def _last_words(number: int, child: subprocess.Popen[bytes], folder: Path) -> str:
    """Of a process that has ended before its work was done."""
    refusal = folder / f"{number}.error"
    if refusal.is_file():
        return refusal.read_text()
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        return f"Process {number} was ended by {name}: by somebody, or by the system when memory ran out. {AGAIN}"
    lines = (folder / f"{number}.log").read_text(errors="replace").splitlines()[-LAST_LINES:]
    return "\n".join([f"process {number} ended with {child.returncode}, and said at last:", *lines])


def take_part(folder: str, port: str, seconds: str, job: str) -> None:
    """What a process does that the first one has started.

    Args:
        folder: where it leaves its error, if it is one for the user.
        port: of the first process's store.
        seconds: how long it waits for another process.
        job: `module:name` of the function to call.
    """
    number, first = int(os.environ["RANK"]), os.getppid()
    threading.Thread(target=_end_with, args=(first, folder), daemon=True).start()
    module, _, name = job.partition(":")
    run = getattr(import_module(module), name)
    quiet_libraries()  # takes seconds, in which the first process shall not wait for us yet
    store = TCPStore(HOST, int(port), is_master=False)
    store.set(f"started {number}", "")
    try:
        with stopping.heed():
            _meet(store, number, int(os.environ["WORLD_SIZE"]), timedelta(seconds=float(seconds)))
            run(parse(agree({})))
    except MixalignError as error:
        (Path(folder) / f"{number}.error").write_text(str(error))
        raise
    except Stopped as stop:
        (Path(folder) / f"{number}.stopped").write_text(stop.text)
    except Exception:
        time.sleep(2)  # most likely the first process is gone: then the thread above ends this one, and tidies up
        raise
    finally:
        disconnect()
        if os.getppid() != first:
            shutil.rmtree(folder, ignore_errors=True)


def _end_with(parent: int, folder: str) -> None:
    """Ends this process when the one that started it is gone, and removes what that one could not."""
    while os.getppid() == parent:
        time.sleep(1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)

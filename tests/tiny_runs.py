"""Tiny runs: three generated tasks, a model of a few thousand weights, four steps, one cache for all tests."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from mixalign import cli as command_line
from mixalign import train as train_run
from mixalign.config.console import ConsoleHandler
from mixalign.errors import MixalignError

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("helpful", "reverse", "compare")
ROWS, HELD_OUT = 40, 8
MODEL = ("model.hidden_size=16", "model.num_layers=1", "model.num_heads=2", "model.intermediate_size=32")
SHORT = ("steps=4", "reference.sft_steps=3", "specialists.steps=3", "batch_size=6", "log_every=1")
QUIET = ("progress=false", "trainer.accelerator=cpu")

FIRST_TASK = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from mixalign.mixers.base import Mix


@dataclass(frozen=True)
class FirstTask:
    """Draws the first task with a fixed probability."""

    share: float = 0.5
    needs: ClassVar[frozenset] = frozenset()
    composition: ClassVar[str] = "multinomial"
    descends_on: ClassVar[str] = "loss"
    clip: ClassVar[str] = "none"

    def init(self, rows_K):
        rest = (1 - self.share) / (len(rows_K) - 1)
        sample_K = torch.full((len(rows_K),), rest, dtype=torch.float64)
        sample_K[0] = self.share
        return Mix(sample_K), {"sample_K": sample_K}

    def update(self, signal, state):
        return Mix(state["sample_K"]), state
'''
"""The source of a mixer outside of the package."""


def train_from_overrides(overrides: Sequence[str], run_dir: str) -> dict[str, Any]:
    """`mixalign train` in this process; gives what `eval.json` holds."""
    return train_run(*overrides, run_dir=run_dir)


def generated() -> list[str]:
    """Overrides that leave three of the six generated tasks, with few rows."""
    sizes = f"rows: {ROWS}, validation_rows: {HELD_OUT}, test_rows: {HELD_OUT}"
    kept = [f"data.tasks.{task}={{generator: {task}, {sizes}}}" for task in TASKS]
    return [f"data.tasks.{task}=null" for task in ("format", "safe", "taste")] + kept


def snapshot(*folders: Path) -> dict[str, tuple[int, str]]:
    """Time of change and content of every file."""
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file): (file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files}


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Where all tests find references, specialists and scores; none of them may change what is there."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny(cache) -> Callable[..., list[str]]:
    """The overrides of a tiny run of AMA-S on generated tasks, and further ones, which go before these."""
    return lambda *more: ["mixer=ama_s", *MODEL, *SHORT, *QUIET, f"cache_dir={cache}", *generated(), *more]


@pytest.fixture(scope="session")
def tiny_local(cache) -> Callable[..., list[str]]:
    """The same without tasks: `data=local`."""
    return lambda *more: [*MODEL, *SHORT, *QUIET, f"cache_dir={cache}", "data=local", *more]


@pytest.fixture
def train(tiny, tmp_path, capsys) -> Callable[..., Path]:
    """Trains on the generated tasks; gives the run's folder."""

    def go(*overrides: str, run: str = "run") -> Path:
        train_from_overrides(tiny(*overrides), str(tmp_path / run))
        return tmp_path / run

    return go


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory) -> Path:
    """The folder of a run of AMA-S that nobody may change; its specialists are in the cache."""
    folder = tmp_path_factory.mktemp("finished") / "ama_s"
    train_from_overrides(tiny("mixer=ama_s"), str(folder))
    return folder


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A copy of that folder, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture(scope="session")
def of_mixer(tiny, tmp_path_factory) -> Callable[..., Path]:
    """The folder of a run of eight steps by a mixer, with further overrides; made once, and nobody may change it."""
    needs = {"aioli": ("mixer.rounds=1", "mixer.every=5")}  # its shortest learning phase, a step for each task

    @lru_cache(None)
    def go(mixer: str, *more: str) -> Path:
        folder = tmp_path_factory.mktemp(mixer) / "run"
        overrides = tiny(f"mixer={mixer}", "steps=8", "val_every=4", *needs.get(mixer, ()), *more)
        train_from_overrides(overrides, str(folder))
        return folder

    return go


@pytest.fixture
def refuse(tmp_path, capsys) -> Callable[[Sequence[str]], str]:
    """Tries to train, expects an error that a user is meant to read, and gives its message."""

    def go(overrides: Sequence[str], run: Path | None = None) -> str:
        with pytest.raises(MixalignError) as caught:
            train_from_overrides(overrides, str(run or tmp_path / "refused"))
        assert not (tmp_path / "refused" / "eval.json").exists()
        return str(caught.value)

    return go


class Command:
    """A command that a fork server started, with the methods of subprocess.Popen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pid = int(self._wait_for("pid", 60))

    def poll(self) -> int | None:
        path = self.folder / "code"
        return int(path.read_text()) if path.is_file() else None

    def wait(self, timeout: float = 240) -> int:
        return int(self._wait_for("code", timeout))

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def stdout(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "err").read_text()

    def _wait_for(self, name: str, timeout: float) -> str:
        path, end = self.folder / name, time.monotonic() + timeout
        while not path.is_file():
            assert time.monotonic() < end, f"no `{name}` of {self.folder} after {timeout} s"
            time.sleep(0.005)
        return path.read_text()


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """The empty folder where commands run."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def environment(home) -> dict[str, str]:
    """Of commands: no network, and nothing that this machine's user has set."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MIXALIGN_", "WANDB_", "LOCAL_RANK", "PL_"))}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(home)}
    return env | {"MPLCONFIGDIR": str(home / "matplotlib")}


@pytest.fixture(scope="session")
def start(home, environment, tmp_path_factory) -> Iterator[Callable[..., Command]]:
    """Starts `mixalign` with arguments, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as server:
        assert server.stdout.readline() == "ready\n"

        def go(*arguments: str, **more: str) -> Command:
            folder = tmp_path_factory.mktemp("command")
            files = {name: str(folder / name) for name in ("out", "err", "pid", "code")}
            job = {"argv": [*map(str, arguments)], "cwd": str(home), "env": environment | more} | files
            server.stdin.write(json.dumps(job) + "\n")
            server.stdin.flush()
            return Command(folder)

        yield go
        server.stdin.close()


@pytest.fixture(scope="session")
def cli(start) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `mixalign` with arguments, in a process of its own, to its end."""

    def go(*arguments: str, **more: str) -> subprocess.CompletedProcess:
        command = start(*arguments, **more)
        return subprocess.CompletedProcess(arguments, command.wait(240), command.stdout, command.stderr)

    return go


@pytest.fixture(scope="session")
def cli_refuses(cli, cache) -> Callable[..., str]:
    """Runs the command line, expects one clear message, and gives it; `untouched` folders must stay as they are."""

    def go(*arguments: str, untouched: Sequence[Path] = (), **environment: str) -> str:
        before = snapshot(cache, *untouched)
        done = cli(*arguments, **environment)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        progress, found, message = f"\n{done.stderr}".partition("\nerror: ")
        assert found, done.stderr
        assert "rror" not in progress + message, done.stderr  # one message, not two
        assert snapshot(cache, *untouched) == before
        return message.strip()

    return go


@pytest.fixture
def fresh_logging() -> Iterator[None]:
    """Log lines go where those of a process go that has just started, whatever ran in this one before."""
    root, own = logging.getLogger(), logging.getLogger("mixalign")
    handlers, levels = root.handlers[:], (root.level, own.level)
    root.handlers[:] = [handler for handler in handlers if not isinstance(handler, ConsoleHandler)]
    root.setLevel(logging.WARNING)
    own.setLevel(logging.NOTSET)
    yield
    for handler in root.handlers:
        if isinstance(handler, logging.FileHandler) and handler not in handlers:
            handler.close()  # the log of a run that was made in this process
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


@pytest.fixture
def in_process(fresh_logging, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs `mixalign` with arguments in this process; gives the exit code, stdout and stderr."""
    monkeypatch.setenv("MIXALIGN_VERB", "")  # so that it is restored afterwards
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    def go(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mixalign", *map(str, arguments)])
        code = 0
        try:
            command_line.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return go

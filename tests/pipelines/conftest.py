"""Tiny runs: three generated tasks, a model of a few thousand weights, four steps, one cache for all tests."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mixalign.errors import MixalignError
from mixalign.pipelines.api import train_from_overrides

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("helpful", "reverse", "compare")
ROWS, HELD_OUT = 40, 8
MODEL = ("model.hidden_size=16", "model.num_layers=1", "model.num_heads=2", "model.intermediate_size=32")
SHORT = ("steps=4", "reference.sft_steps=3", "specialists.steps=3", "batch_size=6", "log_every=1")
QUIET = ("progress=false", "trainer.accelerator=cpu")


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
    """The overrides of a tiny run on generated tasks, and further ones; `cache_dir` may be among them."""
    return lambda *more: [*MODEL, *SHORT, *QUIET, f"cache_dir={cache}", *generated(), *more]


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
def refuse(tmp_path, capsys) -> Callable[[Sequence[str]], str]:
    """Tries to train, expects an error that a user is meant to read, and gives its message."""

    def go(overrides: Sequence[str], run: Path | None = None) -> str:
        with pytest.raises(MixalignError) as caught:
            train_from_overrides(overrides, str(run or tmp_path / "refused"))
        assert not (tmp_path / "refused" / "eval.json").exists()
        return str(caught.value)

    return go


@pytest.fixture(scope="session")
def cli(tmp_path_factory) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `python -m mixalign` in a process of its own, in an empty folder, without network."""
    home = tmp_path_factory.mktemp("home")

    def go(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MIXALIGN_", "WANDB_", "LOCAL_RANK", "PL_"))}
        env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(home)}
        env |= {"MPLCONFIGDIR": str(home / "matplotlib")} | environment
        command = [sys.executable, "-m", "mixalign", *map(str, arguments)]
        return subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=300)

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

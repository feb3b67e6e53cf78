"""Of several runs that need the same, one makes it; a lock ends with its process, however that ends."""

import errno
import logging
import os
import threading
import time
from pathlib import Path

import pytest

from mixalign.errors import MixalignError
from mixalign.locks import alone, lock_on
from mixalign.together import locks
from mixalign.together.locks import made_once
from tests.together.processes import end, fork, forks


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(locks, "INTERVAL", 0.1)


def make(path: Path, folder: Path, made: list[bool], seconds: float = 0.3) -> None:
    with made_once(path, folder) as missing:
        made.append(missing)
        if missing:
            time.sleep(seconds)
            path.mkdir()


def test_of_several_runs_one_makes_what_all_need(tmp_path, caplog):
    """Those that wait say so once, however long it takes."""
    caplog.set_level(logging.INFO, "mixalign")
    made: list[bool] = []
    runs = [threading.Thread(target=make, args=(tmp_path / "cache" / "x", tmp_path / "locks", made)) for _ in range(4)]
    (tmp_path / "cache").mkdir()
    for run in runs:
        run.start()
    for run in runs:
        run.join(30)
    assert sorted(made) == [False, False, False, True]
    waiting = [record.getMessage() for record in caplog.records]
    assert 1 <= len(waiting) <= 3  # one that begins late may find it made
    assert set(waiting) == {f"waiting for another run, which makes {tmp_path / 'cache' / 'x'}"}


def test_what_is_there_needs_no_lock(tmp_path):
    """As in a cache that may only be read."""
    (tmp_path / "x").touch()
    tmp_path.chmod(0o500)
    try:
        with made_once(tmp_path / "x", tmp_path / "locks") as missing:
            assert not missing
    finally:
        tmp_path.chmod(0o700)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_next_run_makes_what_one_failed_to_make(tmp_path):
    def fail():
        with made_once(tmp_path / "x", tmp_path / "locks"):
            raise RuntimeError("no power")

    with pytest.raises(RuntimeError, match="no power"):
        fail()
    made: list[bool] = []
    make(tmp_path / "x", tmp_path / "locks", made, 0)
    assert made == [True]


def hold(path: Path, folder: Path) -> None:
    with made_once(path, folder), alone(folder / "alone"):
        (folder / "held").touch()
        time.sleep(300)


@forks
def test_the_lock_of_a_process_that_was_killed_holds_nobody(tmp_path):
    other = fork(hold, tmp_path / "x", tmp_path / "locks")
    made: list[bool] = []
    try:
        while not (tmp_path / "locks" / "held").exists():
            assert other.is_alive()
            time.sleep(0.05)
        waiting = threading.Thread(target=make, args=(tmp_path / "x", tmp_path / "locks", made, 0))
        waiting.start()
        waiting.join(0.5)
        assert made == []
        end(other)
        waiting.join(30)
        assert made == [True]
        with alone(tmp_path / "locks" / "alone"):
            pass
    finally:
        end(other)


def test_one_after_the_other_holds_a_lock(tmp_path):
    order = []

    def work():
        with alone(tmp_path / "locks" / "x"):
            order.append("second")

    with alone(tmp_path / "locks" / "x"):
        other = threading.Thread(target=work)
        other.start()
        other.join(0.2)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]


def count(path: Path, rounds: int) -> None:
    for _ in range(rounds):
        with alone(path.with_name("lock")):
            number = int(path.read_text())
            os.sched_yield()
            path.write_text(str(number + 1))


@forks
def test_processes_take_turns(tmp_path):
    (tmp_path / "number").write_text("0")
    several = [fork(count, tmp_path / "number", 20) for _ in range(3)]
    try:
        for process in several:
            process.join(60)
    finally:
        end(*several)
    assert (tmp_path / "number").read_text() == "60"


def test_a_folder_that_no_one_can_make_is_named(monkeypatch, tmp_path):
    """Of a user who may write everywhere, and yet not in /proc."""

    def refuse(path, *_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(MixalignError, match=r"cannot be made \(.*\). Name another `cache_dir` or `run_dir`"):
        lock_on(tmp_path / "locks" / "one")

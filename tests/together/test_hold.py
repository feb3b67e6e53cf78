"""A run folder has one command at a time; the others are told who it is."""

import os
import socket
import time
from pathlib import Path

import pytest

from mixalign.errors import MixalignError
from mixalign.merging.write import fresh_folder
from mixalign.together.hold import HOLDER, held
from mixalign.verbs.evaluate import run as evaluate
from tests.tiny_runs import train_from_overrides
from tests.together.processes import end, fork, forks


def hold(folder: Path) -> None:
    with held(folder):
        (folder / "held").touch()
        time.sleep(300)


@pytest.fixture
def busy(tmp_path):
    """A folder that another process holds, and that process."""
    other = fork(hold, tmp_path / "run")
    while not (tmp_path / "run" / "held").exists():
        assert other.is_alive()
        time.sleep(0.02)
    yield tmp_path / "run", other
    end(other)


@forks
def test_the_second_is_refused_with_who_holds_it(busy):
    folder, other = busy
    before = sorted(os.listdir(folder))
    with pytest.raises(MixalignError) as caught, held(folder):
        raise AssertionError("two at once")
    who = f"is in use by another command (process {other.pid} on {socket.gethostname()}, since 20"
    assert str(caught.value).startswith(f"{folder} {who}")
    assert sorted(os.listdir(folder)) == before


@forks
def test_a_process_that_was_killed_holds_nothing(busy):
    folder, other = busy
    end(other)
    assert (folder / HOLDER).is_file(), "it had no time to tidy up"
    with held(folder):
        pass
    assert not (folder / HOLDER).exists()


@forks
def test_every_verb_that_writes_into_a_run_folder_asks(busy, tiny, finished):
    folder, _ = busy
    with pytest.raises(MixalignError, match="is in use by another command"):
        train_from_overrides(tiny("mixer=uniform"), str(folder))
    (folder / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    (folder / "model").mkdir()
    with pytest.raises(MixalignError, match="is in use by another command"):
        evaluate(folder, "test")


def test_a_run_holds_its_folder_from_start_to_end(tiny, tmp_path, monkeypatch):
    from mixalign.verbs import train as module

    seen = []
    for name in ("prepare", "eval_table", "run_merges"):  # the first and the last thing that it does there
        function = getattr(module, name)

        def look(*args, real=function, **how):
            with pytest.raises(MixalignError, match=f"process {os.getpid()} "), held(tmp_path / "run"):
                pass
            seen.append(real.__name__)
            return real(*args, **how)

        monkeypatch.setattr(module, name, look)
    train_from_overrides(tiny("mixer=uniform", "specialists.train=never"), str(tmp_path / "run"))
    assert seen == ["prepare", "eval_table", "run_merges"]
    with held(tmp_path / "run"):
        pass


def test_a_failure_lets_go_and_what_it_made_stays(tmp_path):
    with pytest.raises(RuntimeError, match="no power"), held(tmp_path / "run"):
        raise RuntimeError("no power")
    with pytest.raises(MixalignError, match="no rows"), held(tmp_path / "run"):
        raise MixalignError("no rows")
    assert os.listdir(tmp_path) == ["run"]


def test_of_two_merges_into_one_folder_one_is_told(tmp_path):
    with pytest.raises(MixalignError, match="already exists"), fresh_folder(tmp_path / "out"):  # noqa: PT012
        (tmp_path / "out").mkdir()  # of the other, which is ready first
        (tmp_path / "out" / "model").touch()
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["model"]

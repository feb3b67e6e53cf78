"""A sweep in several processes that is stopped at any moment: who is told, and what its end says."""

import os
import signal
from types import SimpleNamespace

import pytest

from mixalign import stopping
from mixalign.config import sweep, sweep_notes
from mixalign.errors import Stopped


@pytest.fixture
def notes():
    with sweep_notes.shared_notes():
        yield


@pytest.fixture
def told(monkeypatch):
    """Numbers of the processes that got a signal; the launcher has this one and the one before it."""
    numbers = []
    ours = [SimpleNamespace(pid=os.getpid() - 1), SimpleNamespace(pid=os.getpid())]
    monkeypatch.setattr(sweep_notes, "active_children", lambda: ours)
    monkeypatch.setattr(os, "kill", lambda number, _: numbers.append(number))
    return numbers


def test_of_processes_only_those_that_listen_are_told_by_a_signal(notes, told):
    assert not sweep_notes.announce()
    sweep_notes.tell_processes()
    assert told == [os.getpid()]


def test_where_none_listens_yet_all_are_ended(notes, told):
    sweep_notes.tell_processes()
    assert told == [os.getpid() - 1, os.getpid()]


def test_one_that_listens_later_is_told_then(notes, told):
    sweep_notes.tell_processes()
    assert sweep_notes.announce()


def test_without_a_folder_signals_are_all_there_is(told):
    """As on another machine."""
    assert not sweep_notes.announce()
    sweep_notes.tell_processes()
    assert told == [os.getpid() - 1, os.getpid()]
    assert sweep_notes.ended(0, 2) == ["not begun", "not begun"]


def test_what_became_of_each_run(notes):
    sweep_notes.note(3, "stopped")
    sweep_notes.note(3, "finished")
    sweep_notes.note(5, "failed")
    assert sweep_notes.ended(3, 4) == ["finished", "not begun", "failed", "not begun"]


class JoblibLauncher:
    """Its processes were ended by the Ctrl-C that this one heard, too."""

    config = SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir="runs/s"), sweeper={}))

    def launch(self, *_, **__):
        sweep_notes.note(0, "finished")
        sweep_notes.note(1, "stopped")
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("A worker process managed by the executor was unexpectedly terminated.")


def test_a_launcher_whose_processes_were_ended_names_all_runs(notes):
    launcher = JoblibLauncher()
    with stopping.heed(), pytest.raises(Stopped) as caught:
        sweep._Launch(launcher, launcher.launch, print)([["seed=0"], ["seed=1"], ["seed=2"]], 0)
    assert caught.value.code == 130
    assert caught.value.text == (
        "stopped by SIGINT in the sweep; what is finished is kept in runs/s. The same command with run_dir=runs/s goes "
        "on from there. The sweep ends here. Of its 3 runs, finished: 0 (seed=0); stopped: 1 (seed=1); not begun: "
        "2 (seed=2)."
    )


def test_a_run_of_a_sweep_that_was_stopped_while_its_process_started_does_not_begin(notes, told, monkeypatch, tmp_path):
    (tmp_path / "run").mkdir()
    hydra = SimpleNamespace(job=SimpleNamespace(num=1), runtime=SimpleNamespace(output_dir=str(tmp_path / "run")))
    monkeypatch.setattr(sweep, "HydraConfig", SimpleNamespace(get=lambda: hydra))
    monkeypatch.setattr(stopping, "heed_for_good", lambda: None)
    sweep_notes.tell_processes()
    left = sweep.within_sweep(lambda: pytest.fail("it began"), main=0)
    stopping.release()
    assert left == sweep.Left("", 0)
    assert sweep_notes.ended(1, 1) == ["not begun"]
    assert not (tmp_path / "run").exists()

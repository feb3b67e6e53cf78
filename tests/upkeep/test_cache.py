"""What a cache holds, and what of it is removed."""

import io
import os
import subprocess
import sys
import time

import pytest

from mixalign.errors import MixalignError
from mixalign.locks import acquire, lock_on
from mixalign.upkeep.cache import KINDS, at_work, entries, remove, select, size_text
from mixalign.verbs import cache as verb


@pytest.fixture
def folder(tmp_path):
    """A model of 1,000 bytes, used ten days ago, and a new file of scores; and what is not ours."""
    model = tmp_path / "specialists" / "math-abc" / "model"
    model.mkdir(parents=True)
    (model / "weights").write_bytes(b"0" * 1000)
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "abc.safetensors").write_bytes(b"0" * 10)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    old = time.time() - 10 * 24 * 3600
    for path in (model / "weights", model, model.parent):
        os.utime(path, (old, old))
    return tmp_path


def _kinds(found):
    return {one.kind: (one.size, round(one.idle_days)) for one in found}


def test_entries_have_their_size_and_age(folder):
    assert _kinds(entries(folder)) == {"specialists": (1000, 10), "scores": (10, 0)}


def test_a_choice_by_kind_and_age(folder):
    found = entries(folder)
    assert _kinds(select(found, ["scores"])) == {"scores": (10, 0)}
    assert _kinds(select(found, older=5)) == {"specialists": (1000, 10)}
    assert select(found, ["scores"], 5) == []
    with pytest.raises(MixalignError, match=r"`score` is no kind .* Did you mean `scores`"):
        select(found, ["score"])


def test_what_is_removed_is_gone_and_all_else_stays(folder):
    removed, left = remove(folder, select(entries(folder), older=5))
    assert [one.kind for one in removed] == ["specialists"]
    assert left == []
    assert not (folder / "specialists" / "math-abc").exists()
    assert (folder / "scores" / "abc.safetensors").is_file()
    assert (folder / "mine" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("lock", ["locks/math-abc/recipe.json", "locks/scores/abc.safetensors"])
def test_what_a_run_makes_at_this_moment_is_left(folder, lock):
    """The places of locks are those of `together.locks.made_once`."""
    held = lock_on(folder / lock)
    assert acquire(held)
    code = (
        "import sys; from pathlib import Path; from mixalign.upkeep.cache import entries, remove\n"
        "folder = Path(sys.argv[1]); print(*(one.path.name for one in remove(folder, entries(folder))[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=200, check=True)
    held.release()
    assert done.stdout.split() == ["math-abc" if "math" in lock else "abc.safetensors"]


def test_what_another_user_may_be_making_is_left(folder, monkeypatch):
    """In a folder of a group its files can be removed, but the lock not be tried."""

    def refused(lock):
        raise PermissionError(13, "Permission denied", lock.lock_file)

    monkeypatch.setattr("mixalign.upkeep.cache.acquire", refused)
    path = folder / "locks" / "math-abc" / "recipe.json"
    path.parent.mkdir(parents=True)
    path.touch()
    found = entries(folder)
    removed, left = remove(folder, found)
    assert ([one.kind for one in removed], [one.kind for one in left]) == (["scores"], ["specialists"])
    assert left[0].path.is_dir()
    assert at_work(folder, found) == []


def test_kinds_are_the_folders_that_runs_make(train, cache):
    """A kind of cache that is not listed would never be removed."""
    train("mixer=ama_s")
    made = {path.name for path in cache.iterdir() if path.is_dir() and any(path.iterdir())}
    assert {"specialists", "scores"} <= made
    assert made - {"locks", "costs"} <= {*KINDS}


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(MixalignError, match=r"is no folder\. Name the `cache_dir`"):
        entries(tmp_path / "none")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e15, "3000.0 TB")]
)
def test_sizes(size, text):
    assert size_text(size) == text


def _call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["mixalign", *map(str, arguments)])
    verb.main()
    return capsys.readouterr().out


def test_the_verb_lists_and_removes(folder, monkeypatch, capsys):
    out = _call(monkeypatch, capsys, folder)
    assert ["specialists", "1", "1.0", "kB", "10", "days"] in [line.split()[:6] for line in out.splitlines()]
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(MixalignError, match="Add `--yes`"):
        _call(monkeypatch, capsys, folder, "--remove")
    assert "Removed 1 entries, 1.0 kB" in _call(monkeypatch, capsys, folder, "--older", "5d", "--remove", "--yes")
    assert "nothing of that" in _call(monkeypatch, capsys, folder, "--older", "5")


@pytest.mark.parametrize("works", [True, False])
def test_a_training_that_goes_on_is_not_called_stopped(folder, works):
    """Its lock has the name of the model, which ends like the name of what is unfinished; another one was stopped."""
    for name in ("abcdef", "012345"):
        (folder / "unfinished" / name / "checkpoints").mkdir(parents=True)
    held = lock_on(folder / "locks" / "math-abcdef" / "recipe.json")
    assert acquire(held)
    if not works:
        held.release()
    # another process looks: a lock is not in the way of its own
    code = "import sys; from mixalign.verbs import cache; sys.argv[1:] = [sys.argv[1]]; cache.main()"
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=200, check=True)
    held.release()
    said = done.stdout.splitlines()[-1]
    if works:
        assert said == "unfinished: 1 of a run that is at work now; 1 stopped: the same command goes on from there."
    else:
        assert said == "unfinished: 2 stopped: the same command goes on from there."
    assert "stopped" not in KINDS["unfinished"]


def test_a_number_of_days_that_is_none(folder, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        _call(monkeypatch, capsys, folder, "--older", "soon")
    assert "'soon' is no number of days" in capsys.readouterr().err

"""A cache that a user may only read: whole it serves, and else what is missing is named."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from mixalign.errors import MixalignError
from mixalign.jobs.day import FILE, template_day
from tests.tiny_runs import snapshot, train_from_overrides

pytestmark = pytest.mark.long

CLOSED: list[Path] = []  # folders below which nothing may be written, also by an administrator
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _below(path: object) -> bool:
    return isinstance(path, str | Path) and any(Path(path).absolute().is_relative_to(folder) for folder in CLOSED)


def _refuse(event: str, arguments: tuple) -> None:
    if not CLOSED:
        return
    changes = event in ("os.remove", "os.rename", "os.rmdir", "shutil.rmtree", "os.truncate")
    changes |= event == "open" and bool(arguments[2] & WRITES)
    changes |= event == "os.mkdir" and not os.path.lexists(arguments[0])
    if changes and any(map(_below, arguments[:2])):
        raise PermissionError(13, "Permission denied", str(arguments[0]))


sys.addaudithook(_refuse)  # stays in the process, and does nothing while CLOSED is empty


@pytest.fixture
def close(monkeypatch):
    """Makes a folder read-only until the end of the test."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and not (mode & os.W_OK and _below(path)))
    yield CLOSED.append
    CLOSED.clear()


@pytest.fixture
def own(tiny, tmp_path):
    """Overrides of a run with a cache of its own, whose tables are in it."""
    return lambda *more: tiny(f"cache_dir={tmp_path / 'cache'}", "merge.methods=[linear]", *more)


def test_a_whole_one_serves(own, close, tmp_path, monkeypatch):
    monkeypatch.setattr("mixalign.data.tokens.cache.SMALL", 1)
    result = train_from_overrides(own(), str(tmp_path / "first" / "run"))
    assert {"costs", "locks", "scores", "specialists", "tokens"} <= {
        path.name for path in (tmp_path / "cache").iterdir()
    }
    before = snapshot(tmp_path / "cache")
    close(tmp_path / "cache")
    assert train_from_overrides(own(), str(tmp_path / "second" / "run")) == result
    assert (tmp_path / "second" / "run_merge_linear" / "eval.json").is_file()
    assert train_from_overrides(own(), str(tmp_path / "second" / "run")) == result
    assert snapshot(tmp_path / "cache") == before


@pytest.mark.parametrize("gone", ["scores", "specialists"])
def test_what_is_missing_is_named(own, close, tmp_path, gone):
    train_from_overrides(own(), str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "cache" / gone)
    before = snapshot(tmp_path / "cache")
    close(tmp_path / "cache")
    with pytest.raises(MixalignError) as caught:
        train_from_overrides(own(), str(tmp_path / "second"))
    assert f"{tmp_path / 'cache' / gone}/" in str(caught.value)
    assert "is missing and would have to be made, but this user may not write to" in str(caught.value)
    assert snapshot(tmp_path / "cache") == before


def test_tables_of_tokens_need_not_be_kept(own, close, tmp_path, monkeypatch):
    monkeypatch.setattr("mixalign.data.tokens.cache.SMALL", 1)
    result = train_from_overrides(own(), str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "cache" / "tokens")
    close(tmp_path / "cache")
    assert train_from_overrides(own(), str(tmp_path / "second")) == result


def test_the_day_is_read_or_asked_for(close, tmp_path):
    class Dated:
        chat_template = "{{ strftime_now('%d %B %Y') }}"

    close(tmp_path)
    with pytest.raises(MixalignError, match=rf"{FILE}, which says which one, is missing.*Set `data.date`"):
        template_day(Dated(), None, tmp_path)
    CLOSED.clear()
    (tmp_path / FILE).write_text("2026-01-31")
    close(tmp_path)
    assert template_day(Dated(), None, tmp_path) == "2026-01-31"


def test_a_cache_that_is_neither_there_nor_can_be_made_is_refused_at_once(own, close, tmp_path):
    (tmp_path / "shared").mkdir()
    close(tmp_path / "shared")
    with pytest.raises(MixalignError, match=r"`cache_dir` is .*, but this user may not write to"):
        train_from_overrides(own(f"cache_dir={tmp_path / 'shared' / 'cache'}"), str(tmp_path / "run"))


def test_merges_of_a_finished_run_train_specialists_that_are_gone(own, tmp_path):
    result = train_from_overrides(own(), str(tmp_path / "run"))
    merged = (tmp_path / "run_merge_linear" / "eval.json").read_bytes()
    shutil.rmtree(tmp_path / "cache")
    assert train_from_overrides(own(), str(tmp_path / "run")) == result
    assert not (tmp_path / "cache" / "specialists").exists(), "its merges are there"
    shutil.rmtree(tmp_path / "run_merge_linear")
    assert train_from_overrides(own(), str(tmp_path / "run")) == result
    assert (tmp_path / "run_merge_linear" / "eval.json").read_bytes() == merged

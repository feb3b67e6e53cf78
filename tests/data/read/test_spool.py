"""Many rows come from a temporary file, and everything is as if they were in memory."""

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from mixalign.data.read import spool
from mixalign.data.read.cut import digests, ranks
from mixalign.data.read.sources import TaskSpec, load_task
from mixalign.data.read.spool import Spool, spooled, taken
from mixalign.errors import MixalignError
from tests.data.read.test_discover import write


@pytest.fixture
def on_disk(monkeypatch):
    monkeypatch.setattr(spool, "FEW", 8)
    monkeypatch.setattr(spool, "BLOCK", 3)


@pytest.mark.parametrize("number", [0, 7, 8, 9, 11, 30, 31])
def test_a_spool_is_a_list(on_disk, number):
    rows = [{"prompt": str(n), "more": [n]} for n in range(number)]
    kept = spooled(rows)
    assert isinstance(kept, Spool) == (number >= 8)
    assert (len(kept), [*kept], kept[2:7]) == (number, rows, rows[2:7])
    assert [kept[n] for n in range(-number, number)] == 2 * rows
    with pytest.raises(IndexError):
        kept[number]


def test_what_json_does_not_give_back_comes_back_as_it_is(on_disk):
    odd = [datetime(2026, 5, 1), (1, 2), {1: "a"}, b"x", np.arange(3), "\ud800", True, 1.0]
    rows = [{"prompt": str(n), "more": odd[n % len(odd)]} for n in range(41)]
    kept = spooled(rows)
    assert isinstance(kept, Spool)
    for n, row in enumerate(kept):
        assert row["prompt"] == str(n)
        assert type(row["more"]) is type(odd[n % len(odd)])
        assert np.array_equal(row["more"], odd[n % len(odd)])
    plain = spooled([{"prompt": str(n)} for n in range(41)])
    assert kept._others
    assert not plain._others


def test_some_rows_of_some_rows(on_disk):
    kept = spooled(range(100, 140))
    odd = taken(kept, np.arange(1, 40, 2))
    assert [*odd] == [*range(101, 140, 2)]
    assert [*taken(odd, [0, 3, 19])] == [101, 107, 139]
    assert (odd[-1], odd[:2], len(odd)) == (139, [101, 103], 20)
    assert taken([5, 6, 7], [0, 2]) == [5, 7]


def rows(number: int) -> list[dict]:
    """Of which some have the prompt of another, and one is there twice."""
    made = [{"prompt": f"{n % (number - 3)}: ", "completion": f"answer {n}"} for n in range(number)]
    return [*made, made[0]]


@pytest.mark.parametrize("options", [{}, {"max_rows": 20}, {"split": "train[10%:80%]"}, {"where": {"prompt": "1: "}}])
def test_a_task_is_read_alike(tmp_path, monkeypatch, options):
    write(tmp_path / "a.jsonl", rows(60))
    spec = TaskSpec(path=str(tmp_path / "a.jsonl"), **options)
    outcomes = []
    for few, block in ((10**6, 256), (8, 3)):
        monkeypatch.setattr(spool, "FEW", few)
        monkeypatch.setattr(spool, "BLOCK", block)
        try:
            found = load_task("t", spec, seed=3)
            outcomes.append(({split: [*part] for split, part in found.items()}, found.look.reports, found.look.cut))
        except MixalignError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_rows_on_two_sides_are_told_alike(tmp_path, on_disk):
    write(tmp_path / "train.jsonl", rows(60))
    write(tmp_path / "validation.jsonl", [rows(60)[5], {"prompt": "new", "completion": "one"}])
    with pytest.raises(MixalignError, match="1 of the 2 rows of validation is trained on as well"):
        load_task("t", TaskSpec(path=str(tmp_path)))
    found = load_task("t", TaskSpec(path=str(tmp_path), on_overlap="drop"))
    assert [*found["train"]] == [row for row in rows(60) if row["completion"] != "answer 5"]
    assert found.look.reports["train"].dropped == 1


def test_lines_that_are_left_out_keep_their_numbers(tmp_path, on_disk):
    lines = [json.dumps(row) for row in rows(30)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:20], "{", "", *lines[20:], '{"prompt": "x"}']))
    spec = TaskSpec(path=str(tmp_path / "a.jsonl"), on_bad_row="skip")
    found = load_task("t", spec)
    assert found.look.source_rows == 31
    assert found.look.reports["train"].bad == 2
    with pytest.raises(MixalignError, match="line 21 is not valid JSON"):
        load_task("t", TaskSpec(path=str(tmp_path / "a.jsonl")))


def test_ranks_are_those_of_sorted_hashes():
    texts = ["a", "b", "a", "c", "b", "d"]
    found, more = ranks(digests(texts, 1), digests(["d", "e"], 1))
    assert found[0] == found[2] != found[1] == found[4]
    assert more[0] == found[5]
    assert sorted({*found, *more}) == [0, 1, 2, 3, 4]
    keys = {text: bytes(digests([text], 1).astype(">u8")) for text in "abcde"}
    by_rank = {rank: text for rank, text in zip([*found, *more], [*texts, "d", "e"], strict=True)}
    assert [by_rank[rank] for rank in range(5)] == sorted(keys, key=keys.__getitem__)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told_with_the_folder(on_disk, monkeypatch):
    with open("/dev/full", "wb") as full:
        monkeypatch.setattr(spool, "nameless_file", lambda owner: full)
        with pytest.raises(MixalignError, match=r"is full, where rows lie while they are read.*TMPDIR"):
            spooled(range(10))
        monkeypatch.undo()
        full.raw.close()

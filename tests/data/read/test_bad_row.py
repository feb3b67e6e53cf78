"""`on_bad_row: skip` leaves out what cannot be read, and says how much and why."""

import json
import logging

import pytest

from mixalign.data.read.sources import TaskSpec, load_rows, load_task
from mixalign.errors import MixalignError

GOOD = [{"prompt": f"p{n}", "completion": f"c{n}"} for n in range(20)]
LINES = [json.dumps(row) for row in GOOD]
CELLS = [f"p{n},c{n}" for n in range(20)]
FILES = {  # name: (content, number of bad rows, the first message)
    "not JSON": ("a.jsonl", [*LINES[:3], "{oops", *LINES[3:], "{"], 2, "a.jsonl, line 4 is not valid JSON"),
    "no objects": ("a.jsonl", ["[1]", "3", "null", *LINES], 3, "a.jsonl, line 1 is a JSON list, not an object"),
    "the first line of a .json": ("a.json", ["{oops", *LINES], 1, "a.json, line 1 is not valid JSON"),
    "a list of more than objects": ("a.json", ["[1,", ",".join(LINES), "]"], 1, "a.json, row 1 is not an object"),
    "wrong columns": ("a.jsonl", [*LINES, '{"q": 1}'], 1, "a.jsonl, line 21: the columns are q."),
    "wrong values": ("a.jsonl", [*LINES, '{"prompt": 1, "completion": "x"}'], 1, "a.jsonl, line 21: `prompt` is 1"),
    "empty answers": ("a.jsonl", ['{"prompt": "x", "completion": ""}', *LINES], 1, "line 1: `completion` is empty"),
    "both": ("a.jsonl", ['{"q": 1}', *LINES, "{"], 2, "a.jsonl, line 22 is not valid JSON"),
    "cells": ("a.csv", ["prompt,completion", *CELLS, "1,2,3", "4"], 2, "a.csv, line 22 has 3 cells"),
    "quotes": ("a.csv", ["prompt,completion", *CELLS, '"a"b,c'], 1, "a.csv, line 22 is no CSV"),
    "an open quote": ("a.csv", ["prompt,completion", *CELLS, '"a,c'], 1, "a.csv, line 22 is no CSV"),
    "tabs": ("a.tsv", ["prompt\tcompletion", *(c.replace(",", "\t") for c in CELLS), "x"], 1, "line 22 has 1 cells"),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_rows_are_left_out_and_counted(tmp_path, caplog, case):
    name, lines, bad, said = FILES[case]
    (tmp_path / name).write_text("\n".join(lines))
    spec = {"path": str(tmp_path / name)}
    with pytest.raises(MixalignError):
        load_task("t", TaskSpec(**spec))
    with caplog.at_level(logging.WARNING):
        done = load_task("t", TaskSpec(**spec, on_bad_row="skip"))
    both = done["train"] + done["validation"]
    assert sorted(map(str, both)) == sorted(map(str, GOOD))
    (warning,) = (record.getMessage() for record in caplog.records)
    start = f"{bad} of {20 + bad} rows of task `t` are left out, as they cannot be read. The first: Task `t`, "
    if bad == 1:
        start = "1 of 21 rows of task `t` is left out, as it cannot be read. Task `t`, "
    assert warning.startswith(start)
    assert said in warning
    assert (done.look.reports["train"].bad, done.look.reports["validation"].bad) == (bad, 0)
    # the cut is that of the good rows alone
    (tmp_path / "good.jsonl").write_text("\n".join(LINES))
    assert done == load_task("t", TaskSpec(path=str(tmp_path / "good.jsonl")))


def test_the_task_goes_before_the_data(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join([*LINES, "{"]))
    spec = {"path": str(tmp_path / "a.jsonl")}
    assert len(load_rows("t", TaskSpec(**spec), on_bad_row="skip")) == 20
    with pytest.raises(MixalignError, match="line 21 is not valid JSON"):
        load_rows("t", TaskSpec(**spec, on_bad_row="raise"), on_bad_row="skip")
    with pytest.raises(MixalignError, match=r"`data\.tasks\.t\.on_bad_row` is 'skp'\. Did you mean `skip`"):
        TaskSpec.from_mapping("t", {**spec, "on_bad_row": "skp"})


def test_bad_rows_alone_are_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"q": 1}\n{\n')
    (tmp_path / "b.jsonl").write_text("\n".join(LINES))
    spec = TaskSpec(path=str(tmp_path / "a.jsonl"), on_bad_row="skip")
    with pytest.raises(MixalignError, match=r"`t` \(train\): none of its 2 rows can be read, so `on_bad_row: skip`"):
        load_task("t", spec)
    spec = TaskSpec(path=str(tmp_path / "b.jsonl"), validation=str(tmp_path / "a.jsonl"), on_bad_row="skip")
    with pytest.raises(MixalignError, match=r"`t` \(validation\): none of its 2 rows can be read"):
        load_task("t", spec)


def test_a_slice_has_its_own_bad_rows(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(["{", *LINES[:10], "{", "{", *LINES[10:], "{"]))
    spec = TaskSpec(path=str(tmp_path / "a.jsonl"), split="train[:50%]", validation="train[50%:]", on_bad_row="skip")
    done = load_task("t", spec)
    assert {split: (report.rows, report.bad) for split, report in done.look.reports.items()} == {
        "train": (10, 3),
        "validation": (10, 1),
    }


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1, 2"])
def test_a_file_that_cannot_be_read_at_all_is_an_error(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(MixalignError, match=r"a\.json (cannot be read|is not valid JSON)"):
        load_task("t", TaskSpec(path=str(tmp_path / "a.json"), on_bad_row="skip"))

"""Texts that are rows in more than one form."""

import json

import pytest

from mixalign.data.read.files import read_file
from mixalign.data.read.sources import TaskSpec, load_rows
from mixalign.errors import MixalignError

ROWS = [{"prompt": f"p{n}", "completion": f"c{n}"} for n in range(3)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("key", ["data", "rows", "examples", "train", "anything"])
def test_rows_under_one_key(tmp_path, key, indent):
    whole = {"version": "1", "sizes": [1, 2], "about": {"x": [1]}, "none": [], key: ROWS}
    (tmp_path / "a.json").write_text(json.dumps(whole, indent=indent))
    table = read_file(tmp_path / "a.json")
    assert table.rows == ROWS
    assert [*table.numbers] == [1, 2, 3]


def test_rows_under_several_keys(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"train": ROWS, "test": ROWS}))
    with pytest.raises(MixalignError, match=r"a\.json is one object with several lists of rows: `train`, `test`\."):
        read_file(tmp_path / "a.json")


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("row", [ROWS[0], {"messages": [{"role": "user", "content": "a"}]}, {"q": 1}])
def test_one_object_is_one_row(tmp_path, row, indent):
    (tmp_path / "a.json").write_text(json.dumps(row, indent=indent))
    assert read_file(tmp_path / "a.json").rows == [row]


def test_lines_in_a_file_called_json(tmp_path):
    lines = [json.dumps({"data": [row]}) for row in ROWS]  # each line is a row, whatever it holds
    (tmp_path / "a.json").write_text("\n".join(["", *lines, ""]))
    table = read_file(tmp_path / "a.json")
    assert (table.rows, table.numbers) == ([{"data": [row]} for row in ROWS], [2, 3, 4])
    (tmp_path / "a.json").write_text("\n".join(["{" + lines[0], *lines[1:]]))
    with pytest.raises(MixalignError, match=r"a\.json, line 1 is not valid JSON"):
        read_file(tmp_path / "a.json")


def test_a_row_that_is_a_wrapper_in_json_lines_stays_a_row(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"data": ROWS}))
    assert read_file(tmp_path / "a.jsonl").rows == [{"data": ROWS}]


def test_cells_of_a_tsv(tmp_path):
    (tmp_path / "a.tsv").write_text('prompt\tcompletion\n1,5\t007\n"a\tb"\tNA\n')
    assert load_rows("t", TaskSpec(path=str(tmp_path / "a.tsv"))) == [
        {"prompt": "1,5", "completion": "007"},
        {"prompt": "a\tb", "completion": "NA"},
    ]
    (tmp_path / "a.tsv").write_text("prompt\tcompletion\n1,5\n")
    with pytest.raises(MixalignError, match=r"line 2 has 1 cells.*quotes around cells with tabs"):
        load_rows("t", TaskSpec(path=str(tmp_path / "a.tsv")))

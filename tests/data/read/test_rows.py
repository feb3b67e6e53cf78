"""Columns that lie within objects of a row."""

import json

import pytest

from mixalign.data.read.columns import Tally
from mixalign.data.read.rows import recognise
from mixalign.data.read.sources import TaskSpec, load_rows
from mixalign.data.read.table import Table
from mixalign.errors import MixalignError

COLUMNS = {"prompt": "meta.question", "completion": "meta.best.text"}
ROW = {"id": 1, "meta": {"question": "q", "best": {"text": "a"}}}


def read(row: dict, columns: dict):
    return recognise("t", [Table("a.jsonl, line", [1], [row])], Tally(columns)).examples


def test_dots_descend():
    assert read(ROW, COLUMNS) == [{"prompt": "q", "completion": "a"}]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_dots_descend_in_files(tmp_path, suffix):
    import datasets

    datasets.disable_progress_bars()
    if suffix == "parquet":
        datasets.Dataset.from_list([ROW] * 3).to_parquet(str(tmp_path / "a.parquet"))
    else:
        (tmp_path / "a.jsonl").write_text((json.dumps(ROW) + "\n") * 3)
    spec = TaskSpec.from_mapping("t", {"path": str(tmp_path / f"a.{suffix}"), "columns": COLUMNS})
    assert load_rows("t", spec) == [{"prompt": "q", "completion": "a"}] * 3


def test_a_column_of_the_whole_name_goes_first():
    assert read({"a.b": "q", "a": {"b": "no"}, "text": "no"}, {"text": "a.b"})[0]["completion"] == "q"


def test_an_object_may_be_a_column_as_well():
    row = {"prompt": [{"role": "user", "content": "x"}], "completion": {"role": "assistant", "content": "y"}}
    row = {"both": row}
    columns = {"prompt": "both.prompt", "completion": "both.completion"}
    assert read(row, columns)[0]["completion"] == [{"role": "assistant", "content": "y"}]


def test_null_on_the_way_is_an_absent_value():
    row = {"meta": {"question": "q", "extra": None}, "answer": "a"}
    columns = {"prompt": "meta.question", "completion": "answer", "label": "meta.extra.label"}
    assert read(row, columns) == [{"prompt": "q", "completion": "a"}]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("meta.quest", "`columns` names `meta.quest`, but `meta` of the row has no `quest`. Did you mean `question`?"),
        ("meta.best.txt", "but `meta.best` of the row has no `txt`. Did you mean `text`?"),
        ("id.x", "but `id` of the row has no `x`. It is 1."),
        ("mta.question", "`columns` maps `prompt` to `mta.question`, but the row has no `mta.question`."),
    ],
)
def test_names_that_are_not_there(name, said):
    with pytest.raises(MixalignError, match=r"Task `t`, a\.jsonl, line 1: ") as caught:
        read(ROW, {**COLUMNS, "prompt": name})
    assert said in str(caught.value)

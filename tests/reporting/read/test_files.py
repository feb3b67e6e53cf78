"""A file that cannot be read is named, and its run is skipped."""

import math

import pytest

from mixalign.errors import MixalignError
from mixalign.reporting.read.files import number, read_object
from mixalign.reporting.read.runs import load_run
from tests.reporting.made_up import find


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("eval.json", '{"tasks":\n{,}}', r"eval.json`, line 2, is not valid JSON"),
        ("mix.jsonl", '{"step": 1, "sample": [1, 0]}\nnonsense\n', r"mix.jsonl`, line 2, is not valid JSON"),
        ("mix.jsonl", '{"step": 1, "sample": [1]}\n', r"line 1: `sample` has 1 numbers; the run has 2 tasks"),
        ("config.yaml", "a: [1\nb: 2", r"config.yaml`, line 2 is not valid YAML"),
        ("config.yaml", "- 1", r"holds list; a mapping"),
        ("mixture.json", "[]", r"mixture.json`, line 1, holds list; an object"),
    ],
)
def test_damaged_files_are_named_and_skipped(name, text, message, write_run, tmp_path):
    write_run("uniform", 0)
    path = write_run("ama_s", 0, {"a": 0.1, "b": 0.2})
    (path / name).write_text(text)
    with pytest.raises(MixalignError, match=message):
        load_run(path)
    skipped = [run.skipped for run in find(tmp_path) if run.skipped]
    assert len(skipped) == 1
    assert name in skipped[0]


FILES = ("config.yaml", "eval.json", "mixture.json", "mix.jsonl", "metrics.csv")


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_another_encoding_is_named_and_its_run_skipped(name, write_run, tmp_path):
    write_run("uniform", 0)
    path = write_run("ama_s", 0, {"a": 0.1, "b": 0.2})
    (path / name).write_bytes((path / name).read_bytes() + "caf\u00e9\n".encode("latin-1"))
    with pytest.raises(
        MixalignError, match=rf"{name}` is not UTF-8 text \(byte 0xe9 at place \d+\).*Restore or remove"
    ):
        load_run(path)
    assert [name in run.skipped for run in find(tmp_path)] == [True, False]


@pytest.mark.parametrize("name", FILES[:3])
def test_a_file_that_was_cut_off_is_named_and_its_run_skipped(name, write_run, tmp_path):
    write_run("uniform", 0)
    path = write_run("ama_s", 0, {"a": 0.1, "b": 0.2})
    text = "a: {b: 1" if name == "config.yaml" else (path / name).read_text()[:-20]
    (path / name).write_text(text)
    with pytest.raises(MixalignError, match=rf"{name}`, line \d+,? is not valid"):
        load_run(path)
    assert [name in run.skipped for run in find(tmp_path)] == [True, False]


def test_a_cost_that_cannot_be_read_is_unknown(write_run):
    path = write_run("ama_s", 0, costs={"cost.json": {"steps": 3}})
    for content in (b"\xff", b"{", b"[]", b'{"steps": "x", "seconds": NaN}'):
        (path / "cost.json").write_bytes(content)
        assert math.isnan(load_run(path).cost.time)


@pytest.mark.parametrize("value", [None, True, "1", math.inf, math.nan, 10**400, [1]])
def test_what_is_no_number_is_nan(value):
    assert math.isnan(number(value))


def test_objects_nested_too_deeply_are_an_error(tmp_path):
    (tmp_path / "eval.json").write_text("[" * 100_000)
    with pytest.raises(MixalignError, match=r"eval\.json`, line 1, is not valid JSON"):
        read_object(tmp_path / "eval.json")

"""Files are written whole or not at all: also on a disk that is full, which is a real one of a megabyte here."""

import json
import os

import numpy as np
import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.files import read_json, read_numbers, replacing, write_json, write_text
from mixalign.frozen.table import ScoreTable
from mixalign.training.lightning_quirks import WholeCheckpoints


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    write_json(tmp_path / "a" / "x.json", {"b": 1})
    write_json(tmp_path / "a" / "x.json", {"b": 2})
    assert json.loads((tmp_path / "a" / "x.json").read_text()) == {"b": 2}
    assert os.listdir(tmp_path / "a") == ["x.json"]


def test_numbers_that_are_not_finite_are_null_in_json_and_nan_again(tmp_path):
    content = {"a": [1.5, float("inf"), {"b": float("nan")}], "c": "Infinity", "d": (-float("inf"), 2, True)}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == {"a": [1.5, None, {"b": None}], "c": "Infinity", "d": [None, 2, True]}
    assert str(read_numbers(tmp_path / "a.json")["a"]) == "[1.5, nan, {'b': nan}]"


def test_a_folder_is_replaced(tmp_path):
    for number in (1, 2):
        with replacing(tmp_path / "folder") as part:
            part.mkdir()
            (part / f"{number}").write_text("")
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == ["2"]


def test_a_folder_takes_the_place_of_a_file_and_a_file_that_of_a_folder(tmp_path):
    write_text(tmp_path / "x", "old")
    with replacing(tmp_path / "x") as part:
        part.mkdir()
    assert (tmp_path / "x").is_dir()
    write_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"
    assert os.listdir(tmp_path) == ["x"]


def test_what_fails_leaves_the_old_file_and_nothing_new(tmp_path):
    write_text(tmp_path / "x", "old")

    def fail():
        with replacing(tmp_path / "x") as part:
            part.write_text("half")
            raise RuntimeError("no power")

    with pytest.raises(RuntimeError, match="no power"):
        fail()
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_part_of_a_killed_process_with_our_number_is_no_obstacle(tmp_path):
    (tmp_path / f".x.{os.getpid()}").mkdir()
    write_text(tmp_path / "x", "new")
    assert os.listdir(tmp_path) == ["x"]


WRITERS = {
    "text": lambda size, path: write_text(path, "x" * size),
    "checkpoint": lambda size, path: WholeCheckpoints().save_checkpoint({"weight": torch.zeros(size // 4)}, path),
    "score table": lambda size, path: ScoreTable(np.arange(size // 16), np.zeros((size // 16, 1)), {}).save(path),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_named_and_harms_nothing(small_disk, kind):
    path, write = small_disk / "file", WRITERS[kind]
    write(10_000, path)
    before = path.read_bytes()
    with pytest.raises(MixalignError, match=rf"The disk is full: {path} could not be written.*goes on"):
        write(4_000_000, path)
    assert path.read_bytes() == before
    assert os.listdir(small_disk) == ["file"]

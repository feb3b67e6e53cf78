"""Files are written whole or not at all: also on a disk that is full, which is a real one of a megabyte here."""

import json
import os
import shutil
import subprocess

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.files import replacing, write_json, write_text
from mixalign.training.checkpoints import WholeCheckpoints


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a small disk needs rights that this user lacks")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    write_json(tmp_path / "a" / "x.json", {"b": 1})
    write_json(tmp_path / "a" / "x.json", {"b": 2})
    assert json.loads((tmp_path / "a" / "x.json").read_text()) == {"b": 2}
    assert os.listdir(tmp_path / "a") == ["x.json"]


def test_a_folder_is_replaced(tmp_path):
    for number in (1, 2):
        with replacing(tmp_path / "folder") as part:
            part.mkdir()
            (part / f"{number}").write_text("")
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == ["2"]


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


@pytest.mark.parametrize("kind", ["text", "checkpoint"])
def test_a_full_disk_is_named_and_harms_nothing(small_disk, kind):
    path = small_disk / "file"

    def write(size):
        if kind == "text":
            write_text(path, "x" * size)
        else:
            WholeCheckpoints().save_checkpoint({"weight": torch.zeros(size // 4)}, path)

    write(10_000)
    before = path.read_bytes()
    with pytest.raises(MixalignError, match=rf"The disk is full: {path} could not be written.*goes on"):
        write(4_000_000)
    assert path.read_bytes() == before
    assert os.listdir(small_disk) == ["file"]

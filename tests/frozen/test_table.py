"""Score tables on disk: what was written comes back, and nothing else is believed."""

import mmap
import os

import numpy as np
import pytest

from mixalign.data import mapped
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.frozen import table as module
from mixalign.frozen.table import ScoreTable
from mixalign.types import TokenRow

RECIPE = {"model": "abc", "task": "maths", "objective": {"beta": 0.1, "loss": "dpo"}}
TABLE = ScoreTable(np.array([7, 3, 11]), np.array([[-1.5, -2.5], [-3.0, -4.0], [-5.0, -6.25]]), RECIPE)


def rows(*row_ids: int) -> TaskDataset:
    """A task whose rows have these ids."""
    one = np.array([5], np.int32)
    built = [TokenRow(row_id=i, prompt=one, completions=[one, one], supervised=[one > 0] * 2) for i in row_ids]
    return TaskDataset.from_rows("maths", built, 2)


@pytest.fixture
def path(tmp_path):
    TABLE.save(tmp_path / "scores" / "x.safetensors")
    return tmp_path / "scores" / "x.safetensors"


def test_a_table_comes_back_as_it_was(path):
    found = ScoreTable.load(path, RECIPE)
    assert found.row_id_N.tolist() == [7, 3, 11]
    assert found.row_id_N.dtype == np.int64
    assert (found.logp_NS == TABLE.logp_NS).all()
    assert found.logp_NS.dtype == np.float64
    assert found.recipe == RECIPE


def test_every_bit_of_a_score_is_kept(tmp_path):
    row_id_N = np.sort(np.random.default_rng(0).integers(0, 2**63 - 1, 200))
    logp_NS = np.random.default_rng(1).normal(-300, 200, (200, 2))
    ScoreTable(row_id_N, logp_NS, {}).save(tmp_path / "x")
    found = ScoreTable.load(tmp_path / "x", {})
    assert (found.row_id_N == row_id_N).all()
    assert (found.logp_NS == logp_NS).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "def"}, "model: got 'abc', wanted 'def'"),
        ({"objective": {"beta": 0.2, "loss": "dpo"}}, r"objective.beta: got 0.1, wanted 0.2"),
        ({"max_length": 512}, "max_length: got None, wanted 512"),
        ({"model": "x", "task": "code"}, "model: got 'abc', wanted 'x'; task: got 'maths', wanted 'code'"),
    ],
)
def test_a_stale_table_names_every_setting(path, change, message):
    with pytest.raises(MixalignError, match=f"x.safetensors is stale: {message}\\. Delete it"):
        ScoreTable.load(path, RECIPE | change)


def test_the_order_of_a_recipe_does_not_matter(path):
    ScoreTable.load(path, dict(reversed(RECIPE.items())))


@pytest.mark.parametrize("keep", [0, 4, 40, -1, -40])
def test_a_truncated_file_is_refused(path, keep):
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(MixalignError, match=r"x.safetensors is damaged .*Delete it"):
        ScoreTable.load(path, RECIPE)


def test_every_flipped_byte_of_the_header_is_noticed(path):
    whole = path.read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    for place in range(size):
        broken = bytearray(whole)
        broken[place] ^= 0x03
        path.write_bytes(broken)
        try:
            found = ScoreTable.load(path, RECIPE)
        except MixalignError as error:
            assert "x.safetensors is damaged" in str(error)  # noqa: PT017 - a changed name of the checksum is harmless
        else:
            assert (found.row_id_N == TABLE.row_id_N).all()
            assert (found.logp_NS == TABLE.logp_NS).all()
            assert found.recipe == RECIPE
            assert b"crc32" not in broken


def test_a_file_of_something_else_is_refused(path):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(MixalignError, match="damaged"):
        ScoreTable.load(path, RECIPE)
    path.write_bytes(b"{}" * 200)
    with pytest.raises(MixalignError, match="damaged"):
        ScoreTable.load(path, RECIPE)


def test_scores_follow_the_rows_in_any_order_and_number():
    wanted = TABLE.logp_NS
    assert (TABLE.align(rows(3, 7, 11)) == wanted[[1, 0, 2]]).all()
    assert (TABLE.align(rows(11, 7, 3)) == wanted[[2, 0, 1]]).all()
    assert (TABLE.align(rows(3, 3, 7, 3)) == wanted[[1, 1, 0, 1]]).all()
    assert (TABLE.align(rows(7, 3)) == wanted[[0, 1]]).all()
    assert (TABLE.align(rows(11)) == wanted[[2]]).all()


def test_nothing_is_copied_where_the_order_is_the_same(path):
    found = ScoreTable.load(path, RECIPE)
    aligned = found.align(rows(7, 3, 11))
    assert np.shares_memory(aligned, found.logp_NS)
    assert isinstance(_owner(aligned), mmap.mmap)
    with pytest.raises(ValueError, match="read-only"):
        aligned[0] = 0
    assert not np.shares_memory(found.align(rows(3, 7, 11)), found.logp_NS)


def _owner(array):
    """What holds the memory of an array in the end."""
    while getattr(array, "base", None) is not None:
        array = array.base
    return array


@pytest.mark.parametrize("chunk", [1, 2, 3, 4])
def test_rows_are_compared_in_parts(monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert TABLE.align(rows(7, 3, 11)) is TABLE.logp_NS
    assert (TABLE.align(rows(7, 11, 3)) == TABLE.logp_NS[[0, 2, 1]]).all()


@pytest.mark.parametrize("extra", [1, 5, 100])
def test_missing_rows_are_counted(extra):
    with pytest.raises(MixalignError, match="2 of 3 rows of task `maths` are not in the score table"):
        TABLE.align(rows(7, extra, extra))


def test_a_finished_write_leaves_one_file(path):
    TABLE.save(path)
    assert [p.name for p in path.parent.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("failing", ["save_file", "replace"])
def test_an_interrupted_write_leaves_the_old_table(path, monkeypatch, failing):
    def half(arrays, part, metadata):
        part.write_bytes(b"half of a table")
        raise OSError("no space left on device")

    def refuse(part, target):
        raise OSError("interrupted")

    if failing == "save_file":
        monkeypatch.setattr(mapped, "save_file", half)
    else:
        monkeypatch.setattr(os, "replace", refuse)
    new = ScoreTable(TABLE.row_id_N, TABLE.logp_NS * 2, {"model": "new"})
    with pytest.raises(OSError, match=r"no space|interrupted"):
        new.save(path)
    assert (ScoreTable.load(path, RECIPE).logp_NS == TABLE.logp_NS).all()

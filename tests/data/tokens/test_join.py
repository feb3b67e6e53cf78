"""Token tables that are put together in files, and written piece by piece, are those put together in memory."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from mixalign.data import mapped
from mixalign.data.tokens import join, workers
from mixalign.data.tokens.tokenise import tokenise
from mixalign.models.tiny import byte_tokenizer

ROWS = [{"prompt": f"{n}: ", "completion": "x" * (1 + n % 7), "weight": 1.0 + n % 2} for n in range(50)]
NAMES = ("ids_T", "supervised_T", "length_NS", "row_id_N", "start_N")


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("few", [1, 100])
def test_chunks_in_files(monkeypatch, few, weighted):
    rows = [{k: v for k, v in row.items() if weighted or k != "weight"} for row in ROWS]
    monkeypatch.setattr(workers, "CHUNK", 8)
    made = [tokenise(rows, byte_tokenizer(), task="t", form="supervised", max_length=64)]
    monkeypatch.setattr(join, "FEW", few)
    made += [tokenise(rows, byte_tokenizer(), task="t", form="supervised", max_length=64)]
    (one, counts), (other, same) = made
    assert isinstance(other.ids_T, np.memmap)
    assert counts == same
    for name in NAMES:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert [*one.columns] == [*other.columns] == ["weight"] * weighted
    if weighted:
        np.testing.assert_array_equal(one.columns["weight"], other.columns["weight"])


def test_safetensors_reads_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "CHUNK", 3)
    rng = np.random.default_rng(0)
    arrays = {
        "b": rng.random(7) > 0.5,
        "i": np.arange(10, dtype=np.int32).reshape(5, 2),
        "l": np.arange(4),
        "f": rng.random((3, 2)).astype(np.float32),
        "d": rng.random((2, 3)).T,
        "e": np.zeros((0, 2), np.int64),
    }
    ours = tmp_path / "ours.safetensors"
    mapped.save_arrays(ours, arrays, "note", {"a": 1})
    read = load_file(ours)
    assert {*read} == {*arrays}
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype

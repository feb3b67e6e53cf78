"""Flat tables: what goes in comes out, and columns are checked."""

import numpy as np
import pytest
import torch

from mixalign.data import dataset as module
from mixalign.data.batches.collate import collate
from mixalign.data.batches.pack import pack
from mixalign.data.dataset import ARRAYS, TaskDataset
from mixalign.errors import MixalignError

NAN = float("nan")


@pytest.fixture
def rows(make_row):
    """Two pairs; the second has no prompt, an unsupervised first token, and a rejected side of one token."""
    return [
        make_row(11, [1, 5, 6], ([7, 2], "xx"), ([8, 9, 2], "x-x")),
        make_row(12, [], ([1, 7, 2], "-xx"), ([4], "-")),
    ]


@pytest.fixture
def table(rows):
    return TaskDataset.from_rows("chat", rows, 2)


def assert_same_row(found, expected):
    assert found["row_id"] == expected["row_id"]
    np.testing.assert_array_equal(found["prompt"], expected["prompt"])
    for name in ("completions", "supervised"):
        assert len(found[name]) == len(expected[name])
        for a, b in zip(found[name], expected[name], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def test_rows_come_back(table, rows):
    assert (len(table), table.num_completions) == (2, 2)
    for n, row in enumerate(rows):
        assert_same_row(table[n], row)


def test_the_flat_form(table):
    assert table.ids_T.tolist() == [1, 5, 6, 7, 2, 8, 9, 2, 1, 7, 2, 4]
    assert table.supervised_T.tolist() == [x == "x" for x in "---xxx-x-xx-"]
    assert table.length_NS.tolist() == [[3, 2, 3], [0, 3, 1]]
    assert table.start_N.tolist() == [0, 8, 12]
    assert (table.ids_T.dtype, table.row_id_N.dtype) == (np.int32, np.int64)


def test_supervised_tokens_of_each_completion(table):
    assert table.num_tokens_NS.tolist() == [[2, 2], [2, 0]]


def test_first_completion_keeps_the_chosen_side(table, rows):
    chosen = table.first_completion()
    assert (len(chosen), chosen.num_completions) == (2, 1)
    for n, row in enumerate(rows):
        assert_same_row(chosen[n], row | {"completions": row["completions"][:1], "supervised": row["supervised"][:1]})
    assert len(table.ids_T) == 12, "the table itself is left alone"


def test_first_completion_of_one_completion_is_the_table(table):
    once, twice = table.first_completion(), table.first_completion().first_completion()
    assert twice.ids_T.tolist() == once.ids_T.tolist()
    assert twice.length_NS.tolist() == once.length_NS.tolist()


def test_the_chosen_side_is_a_view(table):
    chosen = table.first_completion()
    assert all(np.shares_memory(getattr(chosen, name), getattr(table, name)) for name in ARRAYS)
    assert chosen.num_tokens_NS.tolist() == [[2], [2]]
    assert chosen.length_N.tolist() == [5, 3]


def test_lengths_of_some_rows(table):
    assert table.lengths(np.array([1, 0, 1])).tolist() == [4, 8, 4]
    assert table.length_N.tolist() == [8, 4]
    assert table.first_completion().lengths(np.array([1, 0])).tolist() == [3, 5]


def test_supervised_tokens_of_some_rows(table):
    assert table.num_tokens(1, 2).tolist() == [[2, 0]]
    assert table.num_tokens(1, 1).shape == (0, 2)


def test_rows_are_found_without_a_pass_over_all(table):
    """With `start_N` given, nothing reads the lengths before a row is asked for."""
    unread = np.full_like(table.length_NS, -1)
    given = TaskDataset("chat", table.ids_T, table.supervised_T, unread, table.row_id_N, table.start_N)
    assert given.start_N is table.start_N


@pytest.mark.parametrize("side", ["both", "chosen"])
def test_a_saved_table_comes_back_mapped_and_read_only(table, rows, tmp_path, side):
    table = table if side == "both" else table.first_completion()
    table.save(tmp_path / "new" / "chat.safetensors", {"kept": 2})
    found, note = TaskDataset.load("talk", tmp_path / "new" / "chat.safetensors")
    assert (found.task, note, found.num_completions) == ("talk", {"kept": 2}, table.num_completions)
    for n in range(2):
        assert_same_row(found[n], table[n])
    for name in ARRAYS:
        array = getattr(found, name)
        assert array.dtype == getattr(table, name).dtype
        assert not array.flags.writeable
        assert not array.flags.owndata
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["chat.safetensors"]


def test_an_empty_table_is_saved_too(tmp_path):
    TaskDataset.from_rows("chat", [], 2).save(tmp_path / "x")
    found, note = TaskDataset.load("chat", tmp_path / "x")
    assert (len(found), found.num_completions, found.num_tokens_NS.shape, note) == (0, 2, (0, 2), {})


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_a_table_that_was_cut_is_refused(table, tmp_path, keep):
    table.save(tmp_path / "x")
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:keep])
    with pytest.raises(MixalignError, match=r"The token table .*x is damaged .*Delete it"):
        TaskDataset.load("chat", tmp_path / "x")


@pytest.mark.parametrize("layout", [collate, pack])
def test_batches_of_a_mapped_table_are_the_same(table, tmp_path, layout):
    """And can be written to, which torch wants of every array it is given."""
    table.save(tmp_path / "x")
    mapped, _ = TaskDataset.load("chat", tmp_path / "x")
    scores = np.array([[-1.0, -2.0], [-3.0, -4.0]])
    scores.setflags(write=False)
    for one in (table, mapped):
        one.attach("reference_logp", scores)
    found, wanted = (layout([one], np.zeros(2, int), np.array([1, 0])) for one in (mapped, table))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted if key != "segments")


def test_an_empty_table():
    empty = TaskDataset.from_rows("chat", [], 2)
    assert (len(empty), empty.num_completions, empty.num_tokens_NS.shape) == (0, 2, (0, 2))


def test_a_column_has_one_entry_a_row(table):
    table.attach("specialist_loss", np.array([0.5, 0.1], np.float32))
    assert table.columns["specialist_loss"].tolist() == pytest.approx([0.5, 0.1])
    with pytest.raises(MixalignError, match="`specialist_loss` of task `chat` has 3 entries, but the task has 2 rows"):
        table.attach("specialist_loss", np.zeros(3))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, -2], r"task `chat` has 1 entries that are no numbers of at least 0; the first is -2.0, of row 2"),
        ([NAN, float("inf")], r"has 2 entries .* the first is nan, of row 1"),
        ([0, 0], r"Every row of task `chat` has `weight` 0"),
        ([1], r"Column `weight` of task `chat` has 1 entries, but the task has 2 rows"),
    ],
)
def test_weights_are_numbers_of_which_one_counts(table, weights, message):
    with pytest.raises(MixalignError, match=message):
        table.attach("weight", np.array(weights, np.float64))
    assert "weight" not in table.columns


def test_weights_are_relative_to_their_mean(table):
    assert table.relative_weights(np.array([1, 0, 1])).tolist() == [1, 1, 1]
    assert table.mean(np.array([1.0, 5.0])) == 3
    table.attach("weight", np.array([3, 1]))
    assert table.columns["weight"].dtype == np.float32
    assert table.relative_weights(np.array([1, 0, 1])).tolist() == [0.5, 1.5, 0.5]
    assert table.relative_weights(slice(0, 1)).tolist() == [1.5]
    assert table.mean(np.array([1.0, 5.0])) == 2


def test_weights_stay_with_their_rows(table, tmp_path):
    table.attach("weight", np.array([3, 1], np.float32))
    table.save(tmp_path / "table")
    found, _ = TaskDataset.load("chat", tmp_path / "table")
    for other in (found, found.first_completion()):
        assert other.columns["weight"].tolist() == [3, 1]
        assert other.mean_weight == 2
    table.attach("label", np.array([False, True]))
    assert table.first_completion().columns["weight"].tolist() == [1]


@pytest.mark.parametrize("layout", [collate, pack])
def test_a_batch_has_weights_when_any_task_has(table, rows, layout):
    plain = TaskDataset.from_rows("plain", rows, 2)
    drawn = np.array([1, 0, 0]), np.array([1, 0, 1])
    assert "weight_B" not in layout([table, plain], *drawn)
    table.attach("weight", np.array([3, 1], np.float32))
    found = layout([table, plain], *drawn)["weight_B"]
    assert found.tolist() == [1, 1.5, 0.5]
    assert found.dtype == torch.float32
    assert layout([table, plain], np.array([1]), np.array([0]))["weight_B"].tolist() == [1]


def test_entries_are_looked_at_in_parts(table, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 1)
    with pytest.raises(MixalignError, match="has 3 entries that are not finite"):
        table.attach("reference_logp", np.array([[NAN, -2.0], [NAN, NAN]]))


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_a_column_is_finite(table, bad):
    with pytest.raises(MixalignError, match="`reference_logp` of task `chat` has 1 entries that are not finite"):
        table.attach("reference_logp", np.array([[-1.0, -2.0], [bad, -1.0]]))
    assert "reference_logp" not in table.columns

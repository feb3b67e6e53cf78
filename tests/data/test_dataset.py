"""Flat tables: what goes in comes out, and columns are checked."""

import numpy as np
import pytest

from mixalign.data.dataset import TaskDataset
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


def test_an_empty_table():
    empty = TaskDataset.from_rows("chat", [], 2)
    assert (len(empty), empty.num_completions, empty.num_tokens_NS.shape) == (0, 2, (0, 2))


def test_a_column_has_one_entry_a_row(table):
    table.attach("specialist_loss", np.array([0.5, 0.1], np.float32))
    assert table.columns["specialist_loss"].tolist() == pytest.approx([0.5, 0.1])
    with pytest.raises(MixalignError, match="`specialist_loss` of task `chat` has 3 entries, but the task has 2 rows"):
        table.attach("specialist_loss", np.zeros(3))


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_a_column_is_finite(table, bad):
    with pytest.raises(MixalignError, match="`reference_logp` of task `chat` has 1 entries that are not finite"):
        table.attach("reference_logp", np.array([[-1.0, -2.0], [bad, -1.0]]))
    assert "reference_logp" not in table.columns

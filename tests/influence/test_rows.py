"""Which rows are read, and in which batches."""

import numpy as np
import pytest

from mixalign.influence.rows import choose_rows, cut, few_of, few_read


def test_rows_are_drawn_without_replacement_and_the_longest_come_first(table):
    lengths = [(1, 1 + n % 7) for n in range(50)]
    tables = [table(lengths=lengths), table(lengths=lengths), table(lengths=lengths[:5])]
    rows = choose_rows(tables, samples=20)
    assert [len(set(row_M)) for row_M in rows] == [20, 20, 5]
    assert all((np.diff(t.length_N[row_M]) <= 0).all() for t, row_M in zip(tables, rows, strict=True))
    assert sorted(rows[2]) == list(range(5))
    assert set(rows[0]) != set(rows[1])  # tables are drawn from independently
    assert set(choose_rows(tables, samples=20, seed=1)[0]) != set(rows[0])


def test_a_share_counts_where_it_is_more(table):
    tables = [table(lengths=[(1, 2)] * rows) for rows in (9, 30)]
    assert [len(row_M) for row_M in choose_rows(tables, samples=6, sampling=0.5)] == [6, 15]


def test_batches_are_of_one_table():
    parts = cut([np.array([4, 2, 0]), np.array([1])], batch_size=2)
    assert [(p.number, p.table, p.start, p.row_B.tolist()) for p in parts] == [
        (0, 0, 0, [4, 2]),
        (1, 0, 2, [0]),
        (2, 1, 0, [1]),
    ]


def test_a_quarter_of_the_rows_and_at_least_32():
    number = {m: few_read(m) for m in (1, 31, 32, 63, 100, 128, 130, 256, 1000)}
    assert number == {1: 1, 31: 31, 32: 32, 63: 32, 100: 32, 128: 32, 130: 33, 256: 64, 1000: 250}
    for rows, wanted in number.items():
        place_F, share_F = few_of(np.random.default_rng(rows).random(rows), [3, 1])
        assert len(place_F) == len({*place_F}) == wanted
        assert (np.diff(place_F) > 0).all()
        assert share_F.sum() == pytest.approx(1)


def test_the_largest_rows_stand_for_themselves_and_others_for_their_like():
    size_M = np.arange(256.0)[::-1]  # the first is the largest
    place_F, share_F = few_of(size_M, [0])
    assert place_F[:32].tolist() == [*range(32)]
    assert (share_F[:32] == 1 / 256).all()
    assert ((place_F[32:] - 32) // 7).tolist() == [*range(32)]  # one of every 7 of the 224 others
    assert (share_F[32:] == 7 / 256).all()
    assert not np.array_equal(few_of(size_M, [1])[0], place_F)


def test_what_few_rows_have_is_found():
    """Of 256 rows 5 have all the scatter, which the size of their gradient shows."""
    rng = np.random.default_rng(0)
    value_M = np.where(np.arange(256) % 50 == 0, rng.normal(size=256), 0.0)
    place_F, share_F = few_of(value_M**2, [0])
    spread = share_F @ value_M[place_F] ** 2 - (share_F @ value_M[place_F]) ** 2
    assert spread == pytest.approx(value_M.var())

"""Which rows are read, and in which batches."""

import numpy as np

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


def test_few_rows_are_a_quarter_of_all_lengths_and_at_least_32():
    number = {m: few_read(m) for m in (1, 31, 32, 63, 64, 100, 128, 256, 1000)}
    assert number == {1: 1, 31: 31, 32: 32, 63: 63, 64: 32, 100: 34, 128: 32, 256: 64, 1000: 250}
    for rows in number:
        few = few_of(np.arange(rows), [3, 1])
        assert len(few) == number[rows]
        assert (np.diff(few) > 0).all()
        assert few[-1] < rows
    assert [few // 4 for few in few_of(np.arange(256), [0])] == [*range(64)]
    assert len({*few_of(np.arange(256), [0]) % 4}) == 4  # rows that alternate are all seen

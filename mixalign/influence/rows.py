"""Which rows of each table are read, and how they are cut into batches: the same on any number of ranks."""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np

from mixalign.data.dataset import TaskDataset

__all__ = ["Part", "choose_rows", "cut", "few_of", "few_read", "rows_read"]

SHARE, ENOUGH = 4, 32  # one row in four, and at least 32


class Part(NamedTuple):
    """The rows of one batch, all of one table."""

    number: int  # among all parts
    table: int
    start: int  # place of its first row among the table's chosen rows
    row_B: np.ndarray


def choose_rows(
    tables: Sequence[TaskDataset], samples: int, sampling: float | None = None, seed: int = 0
) -> list[np.ndarray]:
    """Rows of each table, drawn without replacement and put in order of length, the longest first.

    Args:
        samples: rows of each table; all of them where there are fewer.
        sampling: share of a table's rows, where that is more.
    """
    return [_choose(table, samples, sampling, [seed, number]) for number, table in enumerate(tables)]


def rows_read(length: int, samples: int, sampling: float | None = None) -> int:
    """Rows that are read of a table of this length."""
    return min(length, max(samples, ceil((sampling or 0) * length)))


def _choose(table: TaskDataset, samples: int, sampling: float | None, seed: list[int]) -> np.ndarray:
    number = rows_read(len(table), samples, sampling)
    rows = np.sort(np.random.default_rng(seed).choice(len(table), number, replace=False, shuffle=False))
    return rows[np.argsort(-table.length_N[rows], kind="stable")]


def few_of(size_M: np.ndarray, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows that tell how much all of them scatter: their places, ascending, and the share of rows that each stands for.

    A trained model has learned most rows, and the few that it has not make most of the scatter. Half of those taken are
    the rows of the largest size, for themselves; of the others one at random of every few that are about as large.

    Args:
        size_M: of each row's gradient, in any unit.
    """
    number = few_read(len(size_M))
    order_M, sure = np.argsort(-size_M, kind="stable"), number // 2
    groups = np.array_split(order_M[sure:], number - sure)
    rng = np.random.default_rng(seed)
    place_F = np.array([*order_M[:sure], *(rng.choice(group) for group in groups)])
    share_F = np.array([1] * sure + [len(group) for group in groups]) / len(size_M)
    by_place = np.argsort(place_F)
    return place_F[by_place], share_F[by_place]


def few_read(rows: int) -> int:
    """How many those are, of so many rows."""
    return max(min(rows, ENOUGH), ceil(rows / SHARE))


def cut(rows: Sequence[np.ndarray], batch_size: int) -> list[Part]:
    """All batches. A rank takes whole ones, so that what is drawn for a batch does not depend on their number."""
    places = [(t, start) for t, row_M in enumerate(rows) for start in range(0, len(row_M), batch_size)]
    return [Part(n, t, start, rows[t][start : start + batch_size]) for n, (t, start) in enumerate(places)]

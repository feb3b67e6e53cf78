"""Which rows of each table are read, and how they are cut into batches: the same on any number of ranks."""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np

from mixalign.data.dataset import TaskDataset

__all__ = ["Part", "choose_rows", "cut", "few_of", "few_read", "rows_read"]

SHARE, ENOUGH = 4, 32  # one row in four, and more where that would be fewer than 32


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


def few_of(row_M: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """One at random of every few rows, of all lengths as the rows are in order of it, for what needs no more: a spread.

    The standard error of a score comes out within 9 % of itself from 64 rows, and within 13 % from 32, where products
    are normal.
    """
    step = _step(len(row_M))
    first = np.arange(0, len(row_M), step)
    return row_M[np.random.default_rng(seed).integers(first, np.minimum(first + step, len(row_M)))]


def few_read(rows: int) -> int:
    """How many those are, of so many rows."""
    return ceil(rows / _step(rows))


def _step(rows: int) -> int:
    return max(1, min(SHARE, rows // ENOUGH))


def cut(rows: Sequence[np.ndarray], batch_size: int) -> list[Part]:
    """All batches. A rank takes whole ones, so that what is drawn for a batch does not depend on their number."""
    places = [(t, start) for t, row_M in enumerate(rows) for start in range(0, len(row_M), batch_size)]
    return [Part(n, t, start, rows[t][start : start + batch_size]) for n, (t, start) in enumerate(places)]

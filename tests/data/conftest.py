"""Small tables that a reader can see through."""

import numpy as np
import pytest

from mixalign.data.dataset import TaskDataset
from mixalign.types import TokenRow


@pytest.fixture
def make_row():
    """A row from lists: `completions` as (ids, marks) pairs, marks as a string such as "-xx" (x is supervised)."""

    def make(row_id, prompt, *completions):
        return TokenRow(
            row_id=row_id,
            prompt=np.array(prompt, np.int32),
            completions=[np.array(ids, np.int32) for ids, _ in completions],
            supervised=[np.array([c == "x" for c in marks], bool) for _, marks in completions],
        )

    return make


@pytest.fixture
def numbered(make_row):
    """A table of preference pairs: row n of task k has the id 1000 k + n and n % 3 + 1 prompt tokens."""

    def table(task, size):
        rows = [make_row(1000 * task + n, [7] * (n % 3 + 1), ([8, 2], "xx"), ([9, 2], "xx")) for n in range(size)]
        return TaskDataset.from_rows(f"task{task}", rows, 2)

    return table

"""Tokenised rows of one task as flat arrays: a row is a slice, a score is a column."""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np

from mixalign.errors import MixalignError
from mixalign.types import TokenRow

__all__ = ["TaskDataset"]


class TaskDataset:
    """All rows of one split of one task.

    Token ids of every row lie in one flat array (prompt, then each completion), so that a row costs a slice
    and a table of any size can be memory-mapped.

    Args:
        task: name of the task.
        ids_T: int32, token ids of all rows, one after the other.
        supervised_T: bool, the same shape; False on prompts and on the turns that are not trained.
        length_NS: int32 (N, 1 + S), tokens of each row's prompt and completions.
        row_id_N: int64 (N,), content hash of each row.
    """

    def __init__(self, task: str, ids_T, supervised_T, length_NS, row_id_N) -> None:
        self.task = task
        self.ids_T, self.supervised_T = ids_T, supervised_T
        self.length_NS, self.row_id_N = length_NS, row_id_N
        self.start_N = np.concatenate([[0], np.cumsum(self.length_N)])
        self.columns: dict[str, np.ndarray] = {}

    @classmethod
    def from_rows(cls, task: str, rows: Sequence[TokenRow], num_completions: int) -> "TaskDataset":
        """Packs rows into the flat form; `num_completions` is S, needed when there are no rows."""
        ids, marks = [np.zeros(0, np.int32)], [np.zeros(0, bool)]
        length_NS = np.zeros((len(rows), 1 + num_completions), np.int32)
        for n, row in enumerate(rows):
            ids += [row["prompt"], *row["completions"]]
            marks += [np.zeros(len(row["prompt"]), bool), *row["supervised"]]
            length_NS[n] = [len(row["prompt"]), *map(len, row["completions"])]
        row_id_N = np.array([row["row_id"] for row in rows], np.int64)
        return cls(task, np.concatenate(ids).astype(np.int32), np.concatenate(marks), length_NS, row_id_N)

    def __len__(self) -> int:
        return len(self.row_id_N)

    @property
    def num_completions(self) -> int:
        return self.length_NS.shape[1] - 1

    @cached_property
    def length_N(self) -> np.ndarray:
        """int64 (N,): tokens of each row, its prompt counted once."""
        return self.length_NS.sum(1, dtype=np.int64)

    @cached_property
    def num_tokens_NS(self) -> np.ndarray:
        """int64 (N, S): supervised tokens of each completion."""
        # a leading zero, so that an empty segment at the very end has a place to point to
        before_T = np.concatenate([[0], np.cumsum(self.supervised_T, dtype=np.int64)])
        edge_NS = self.start_N[:-1, None] + np.cumsum(self.length_NS, 1)
        return before_T[edge_NS[:, 1:]] - before_T[edge_NS[:, :-1]]

    def first_completion(self) -> "TaskDataset":
        """The same rows with their first completion only: the chosen side of preference pairs."""
        edge_N = self.start_N[:-1] + self.length_NS[:, :2].sum(1)
        bounds = np.stack([self.start_N[:-1], edge_N], 1)
        keep_T = np.zeros(len(self.ids_T) + 1, np.int8)
        keep_T[bounds[:, 0]] += 1
        np.subtract.at(keep_T, bounds[:, 1], 1)
        keep_T = np.cumsum(keep_T[:-1]).astype(bool)
        length_NS = self.length_NS[:, :2].copy()
        return TaskDataset(self.task, self.ids_T[keep_T], self.supervised_T[keep_T], length_NS, self.row_id_N)

    def __getitem__(self, index: int) -> TokenRow:
        edges = self.start_N[index] + np.cumsum(np.concatenate([[0], self.length_NS[index]]))
        cuts = [slice(a, b) for a, b in pairwise(edges)]
        return TokenRow(
            row_id=int(self.row_id_N[index]),
            prompt=self.ids_T[cuts[0]],
            completions=[self.ids_T[c] for c in cuts[1:]],
            supervised=[self.supervised_T[c] for c in cuts[1:]],
        )

    def attach(self, name: str, value_N: np.ndarray) -> None:
        """Adds a column with one entry a row, such as `specialist_loss` (N,) or `reference_logp` (N, S).

        Raises:
            MixalignError: when the column has another number of rows, or an entry that is not finite.
        """
        if len(value_N) != len(self):
            raise MixalignError(
                f"Column `{name}` of task `{self.task}` has {len(value_N)} entries, but the task has "
                f"{len(self)} rows. Score the task again with `mixalign score`."
            )
        if bad := int((~np.isfinite(value_N)).sum()):
            raise MixalignError(
                f"Column `{name}` of task `{self.task}` has {bad} entries that are not finite. The model that "
                "was scored has diverged: train it again with a lower learning rate."
            )
        self.columns[name] = value_N

"""Tokenised rows of one task as flat arrays: a row is a slice, a score is a column."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mixalign.data.mapped import load_arrays, save_arrays
from mixalign.errors import MixalignError
from mixalign.types import TokenRow

__all__ = ["TaskDataset"]

ARRAYS = {"ids_T": np.int32, "supervised_T": np.bool_, "length_NS": np.int32, "row_id_N": np.int64, "start_N": np.int64}
CHUNK = 1 << 16  # entries of a column that are looked at together


class TaskDataset:
    """All rows of one split of one task.

    Token ids of every row lie in one flat array (prompt, then each completion), so that a row costs a slice
    and a table of any size can be memory-mapped: no array is written to, and none is copied as a whole.

    A column `weight` (N,), float32 of at least 0, says what each row counts in every mean over rows of this table: the
    task's loss in training, its excess, accuracy and validation losses are `sum(w x) / sum(w)`. Rows are drawn as if
    there were no weights, each as often as any other, and what a row counts in a step is its weight over the mean
    weight of the table, whatever else was drawn beside it: in expectation a step is one on the table in which a row of
    weight 3 lies three times, also where a batch holds a single row of a task. Weights are compared within a table
    only: the mixture of tasks is the mixer's.

    Args:
        task: name of the task.
        ids_T: int32, token ids of all rows, one after the other.
        supervised_T: bool, the same shape; False on prompts and on the turns that are not trained.
        length_NS: int32 (N, 1 + S), tokens of each row's prompt and completions.
        row_id_N: int64 (N,), content hash of each row.
        start_N: int64 (N + 1,), place in `ids_T` where each row begins, and the end; None computes it, in one pass.
    """

    def __init__(
        self,
        task: str,
        ids_T: np.ndarray,
        supervised_T: np.ndarray,
        length_NS: np.ndarray,
        row_id_N: np.ndarray,
        start_N: np.ndarray | None = None,
    ) -> None:
        self.task = task
        self.ids_T, self.supervised_T = ids_T, supervised_T
        self.length_NS, self.row_id_N = length_NS, row_id_N
        self.start_N = np.concatenate([[0], np.cumsum(self.length_N)]) if start_N is None else start_N
        self.columns: dict[str, np.ndarray] = {}
        self.mean_weight = 1.0  # of the column `weight`

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

    def save(self, path: Path, note: Mapping[str, Any] | None = None) -> None:
        """Writes the rows, their labels and their weights, not the scores, to a safetensors file.

        Args:
            note: JSON-like; comes back from `load`.
        """
        arrays = {name: getattr(self, name) for name in ARRAYS}
        if "label" in self.columns:
            arrays["label_N"] = self.columns["label"]
        if "weight" in self.columns:
            arrays["weight_N"] = self.columns["weight"]
        save_arrays(path, arrays, "note", dict(note or {}))

    @classmethod
    def load(cls, task: str, path: Path, labelled: bool = False) -> tuple["TaskDataset", Any]:
        """The rows of a file, memory-mapped and read-only, and the note that was saved with them.

        Weights become the column `weight` where the file has some.

        Args:
            labelled: whether the rows have labels, which become the column `label`.

        Raises:
            MixalignError: when the file is damaged.
        """
        wanted = {**ARRAYS, "label_N": np.bool_} if labelled else ARRAYS
        arrays, note = load_arrays(path, "token table", "note", wanted, {"weight_N": np.float32})
        columns = {name: arrays.pop(f"{name}_N") for name in ("label", "weight") if f"{name}_N" in arrays}
        dataset = cls(task, **arrays)
        for name, value_N in columns.items():
            dataset.attach(name, value_N)
        return dataset, note

    def __len__(self) -> int:
        return len(self.row_id_N)

    @property
    def num_completions(self) -> int:
        return int(self.length_NS.shape[1]) - 1

    def lengths(self, row_B: np.ndarray) -> np.ndarray:
        """int64 (B,): tokens of the chosen rows, their prompts counted once."""
        length_B: np.ndarray = self.length_NS[row_B].sum(1, dtype=np.int64)
        return length_B

    @property
    def length_N(self) -> np.ndarray:
        """int64 (N,): tokens of each row, made anew by a pass over all; see `lengths` for a few."""
        length_N: np.ndarray = self.length_NS.sum(1, dtype=np.int64)
        return length_N

    def num_tokens(self, start: int, stop: int) -> np.ndarray:
        """int64 (stop - start, S): supervised tokens of each completion of the rows from `start` to `stop`."""
        first, last = self.start_N[start], self.start_N[stop]
        # a leading zero, so that an empty segment at the very end has a place to point to
        before_T = np.concatenate([[0], np.cumsum(self.supervised_T[first:last], dtype=np.int64)])
        edge_NS = (self.start_N[start:stop] - first)[:, None] + np.cumsum(self.length_NS[start:stop], 1)
        count_NS: np.ndarray = before_T[edge_NS[:, 1:]] - before_T[edge_NS[:, :-1]]
        return count_NS

    @property
    def num_tokens_NS(self) -> np.ndarray:
        """int64 (N, S): supervised tokens of each completion, made anew by a pass over all tokens."""
        return self.num_tokens(0, len(self))

    def first_completion(self) -> "TaskDataset":
        """The rows with their first completion only: the chosen side of pairs, the desirable ones of labelled rows.

        No token is copied; weights stay with their rows.
        """
        length_NS, row_id_N, start_N = self.length_NS[:, :2], self.row_id_N, self.start_N
        weight_N = self.columns.get("weight")
        if "label" in self.columns:
            kept_N = np.flatnonzero(self.columns["label"])
            length_NS, row_id_N, start_N = length_NS[kept_N], row_id_N[kept_N], start_N[np.append(kept_N, -1)]
            weight_N = None if weight_N is None else weight_N[kept_N]
        first = TaskDataset(self.task, self.ids_T, self.supervised_T, length_NS, row_id_N, start_N)
        if weight_N is not None:
            first.attach("weight", weight_N)
        return first

    def take(self, row_M: np.ndarray) -> "TaskDataset":
        """Some rows with their columns; no token is copied.

        Args:
            row_M: int (M,), rising.
        """
        start_N = self.start_N[np.append(row_M, -1)]
        some = TaskDataset(
            self.task, self.ids_T, self.supervised_T, self.length_NS[row_M], self.row_id_N[row_M], start_N
        )
        for name, value_N in self.columns.items():
            some.attach(name, value_N[row_M])
        return some

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
            MixalignError: when the column has another number of rows, or an entry that is not finite; for `weight`
                also when an entry is below 0, or all are 0.
        """
        if len(value_N) != len(self):
            raise MixalignError(
                f"Column `{name}` of task `{self.task}` has {len(value_N)} entries, but the task has "
                f"{len(self)} rows. Score the task again with `mixalign score`."
            )
        if name == "weight":
            value_N, self.mean_weight = _checked_weights(self.task, value_N)
        elif bad := sum(int((~np.isfinite(chunk)).sum()) for chunk in _chunks(value_N)):
            raise MixalignError(
                f"Column `{name}` of task `{self.task}` has {bad} entries that are not finite. The model that "
                "was scored has diverged, or its weights are damaged: train it with a lower rate, or take another."
            )
        self.columns[name] = value_N

    def relative_weights(self, row_B: np.ndarray | slice) -> np.ndarray:
        """float32 (B,): what the chosen rows count in means: 1 on average over the table, 1 each without weights."""
        if "weight" not in self.columns:
            return np.ones(len(np.arange(len(self))[row_B]), np.float32)
        relative_B: np.ndarray = (self.columns["weight"][row_B] / self.mean_weight).astype(np.float32)
        return relative_B

    def mean(self, value_N: np.ndarray, dtype: type | None = None) -> float:
        """The mean over all rows of one number each, by their weights where they have some."""
        if "weight" not in self.columns:
            return float(value_N.mean(dtype=dtype))
        return float(np.average(value_N.astype(np.float64), weights=self.columns["weight"].astype(np.float64)))


def _chunks(value_N: np.ndarray) -> Iterator[np.ndarray]:
    return (value_N[start : start + CHUNK] for start in range(0, len(value_N), CHUNK))


def _checked_weights(task: str, value_N: np.ndarray) -> tuple[np.ndarray, float]:
    """The weights as float32, and their mean."""
    weight_N = value_N if value_N.dtype == np.float32 else np.asarray(value_N, np.float32)
    bad_N = np.concatenate([np.zeros(0, bool), *(~(np.isfinite(chunk) & (chunk >= 0)) for chunk in _chunks(weight_N))])
    if bad_N.any():
        first = int(np.flatnonzero(bad_N)[0])
        raise MixalignError(
            f"Column `weight` of task `{task}` has {int(bad_N.sum())} entries that are no numbers of at least 0; the "
            f"first is {float(value_N[first])}, of row {first + 1} of those that were kept. Correct them, or remove "
            "the column."
        )
    total = sum(float(chunk.sum(dtype=np.float64)) for chunk in _chunks(weight_N))
    if len(weight_N) and total == 0:
        raise MixalignError(
            f"Every row of task `{task}` has `weight` 0, or each of the {len(weight_N):,} of one of its splits, "
            "so that nothing of it counts. Give some of these rows a weight above 0, cut more of them to validate "
            "(`data.validation_fraction`), or remove the task or the column."
        )
    return weight_N, total / max(1, len(weight_N))

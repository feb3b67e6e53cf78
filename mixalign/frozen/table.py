"""Numbers of a frozen model, one a row, on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixalign.data.dataset import TaskDataset
from mixalign.data.mapped import load_arrays, save_arrays
from mixalign.errors import MixalignError
from mixalign.fingerprint import differences

__all__ = ["ScoreTable"]

CHUNK = 1 << 16  # row ids that are compared together


@dataclass(frozen=True)
class ScoreTable:
    """Log-probabilities of every completion of every row under one frozen model.

    Attributes:
        row_id_N: int64 (N,), content hashes, in the order of the rows that were scored.
        logp_NS: float64 (N, S), nats, summed over supervised tokens.
        recipe: everything that changes the numbers, as a JSON-like mapping.
    """

    row_id_N: np.ndarray
    logp_NS: np.ndarray
    recipe: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Writes the table beside its place and renames it, so that a reader never sees half of one."""
        save_arrays(path, {"row_id_N": self.row_id_N, "logp_NS": self.logp_NS}, "recipe", dict(self.recipe))

    @classmethod
    def load(cls, path: Path, recipe: Mapping[str, Any]) -> "ScoreTable":
        """Maps a table into memory, read-only, and checks that it was made by the wanted recipe.

        Raises:
            MixalignError: when the file is damaged, or naming every setting that differs.
        """
        arrays, found = load_arrays(path, "score table", "recipe", {"row_id_N": np.int64, "logp_NS": np.float64})
        if wrong := differences(found, recipe):
            raise MixalignError(
                f"The score table {path} is stale: {'; '.join(wrong)}. Delete it to have it made again, or "
                "restore the setting that it was made with."
            )
        return cls(**arrays, recipe=found)

    def align(self, dataset: TaskDataset) -> np.ndarray:
        """The scores in the order of the rows of a task, (N, S): the table's own array where the order is the same.

        Raises:
            MixalignError: when rows are missing from the table.
        """
        if self._has_order_of(dataset):
            return self.logp_NS
        order_N = np.argsort(self.row_id_N, kind="stable")
        place_N = np.searchsorted(self.row_id_N, dataset.row_id_N, sorter=order_N)
        place_N = order_N[np.minimum(place_N, len(order_N) - 1)]
        missing = int((self.row_id_N[place_N] != dataset.row_id_N).sum())
        if missing:
            raise MixalignError(
                f"{missing} of {len(dataset)} rows of task `{dataset.task}` are not in the score table. "
                "The data changed since it was scored: run `mixalign score`."
            )
        return self.logp_NS[place_N]

    def _has_order_of(self, dataset: TaskDataset) -> bool:
        size = len(self.row_id_N)
        chunks = (slice(start, start + CHUNK) for start in range(0, size, CHUNK))
        return size == len(dataset) and all(np.array_equal(self.row_id_N[c], dataset.row_id_N[c]) for c in chunks)

"""Numbers of a frozen model, one a row, on disk."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.fingerprint import differences

__all__ = ["ScoreTable"]


@dataclass(frozen=True)
class ScoreTable:
    """Log-probabilities of every completion of every row under one frozen model.

    Attributes:
        row_id_N: int64 (N,), content hashes, sorted.
        logp_NS: float64 (N, S), nats, summed over supervised tokens.
        recipe: everything that changes the numbers, as a JSON-like mapping.
    """

    row_id_N: np.ndarray
    logp_NS: np.ndarray
    recipe: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Writes the table beside its place and renames it, so that a reader never sees half of one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        arrays = {"row_id_N": self.row_id_N, "logp_NS": self.logp_NS}
        save_file(arrays, part, metadata={"recipe": json.dumps(dict(self.recipe), sort_keys=True)})
        part.replace(path)

    @classmethod
    def load(cls, path: Path, recipe: Mapping[str, Any]) -> "ScoreTable":
        """Reads a table and checks that it was made by the wanted recipe.

        Raises:
            MixalignError: when the file is damaged, or naming every setting that differs.
        """
        try:
            with safe_open(path, framework="np") as file:
                found = json.loads(file.metadata()["recipe"])
                table = cls(file.get_tensor("row_id_N"), file.get_tensor("logp_NS"), found)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise MixalignError(
                f"The score table {path} is damaged ({error}). Delete it to have it made again."
            ) from error
        if wrong := differences(found, recipe):
            raise MixalignError(
                f"The score table {path} is stale: {'; '.join(wrong)}. Delete it to have it made again, or "
                "restore the setting that it was made with."
            )
        return table

    def align(self, dataset: TaskDataset) -> np.ndarray:
        """The scores in the order of the rows of a task, (N, S).

        Raises:
            MixalignError: when rows are missing from the table.
        """
        place_N = np.searchsorted(self.row_id_N, dataset.row_id_N)
        place_N = np.minimum(place_N, len(self.row_id_N) - 1)
        missing = int((self.row_id_N[place_N] != dataset.row_id_N).sum())
        if missing:
            raise MixalignError(
                f"{missing} of {len(dataset)} rows of task `{dataset.task}` are not in the score table. "
                "The data changed since it was scored: run `mixalign score`."
            )
        return self.logp_NS[place_N]

"""Draws the global batch of each optimizer step from the current mixture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch

from mixalign.checks import check_choice, check_number
from mixalign.data.batches.shuffle import mix_bits, permute
from mixalign.errors import MixalignError
from mixalign.mixers.base import Composition

__all__ = ["Draw", "MixtureSampler"]

NO_EPOCH = 2**62  # names the order by which a volume takes rows, the same in every epoch


@dataclass(frozen=True)
class Draw:
    """One global batch.

    Attributes:
        task_B: task of each sample.
        row_B: row of each sample within its task.
        prob_B: probability with which its task was drawn.
        count_K: samples of each task.
    """

    task_B: np.ndarray
    row_B: np.ndarray
    prob_B: np.ndarray
    count_K: np.ndarray


class MixtureSampler:
    """Draws tasks by the mixture and rows of a task in shuffled order, epoch after epoch.

    A draw depends on the seed, the step, each task's cursor and the mixture, and on nothing else: there is no
    generator to save, and every rank draws the same global batch without talking to the others.

    Args:
        rows_K: rows of each task.
        batch_size: rows of the global batch, over all ranks and accumulated micro-batches.
        composition: `multinomial`: each sample's task is drawn by itself; `stratified`: the counts are as close
            to `batch_size * sample_K` as whole numbers can be, and equal to it on average (systematic sampling).
        seed: of the draws and of the order of the rows.
        volume_K: rows of each task that one epoch has, when they are not all of them once: a random part of the
            rows, or all of them and a random part once more. The part grows and shrinks with the volume.

    Raises:
        MixalignError: when the batch is empty, the composition unknown, the seed negative, or a volume below 1.
    """

    def __init__(
        self,
        rows_K: Sequence[int],
        batch_size: int,
        composition: str = "multinomial",
        seed: int = 0,
        volume_K: Sequence[int] | None = None,
    ):
        if batch_size < 1:
            raise MixalignError(f"`batch_size` is {batch_size}, but a batch needs at least one row.")
        check_choice("composition", composition, get_args(Composition))
        check_number("seed", int(seed), 0, whole=True)  # it may be numpy's
        self.rows_K = np.asarray(rows_K, np.int64)
        self.volume_K = self.rows_K if volume_K is None else np.asarray(volume_K, np.int64)
        if (self.volume_K < 1).any():
            raise MixalignError(f"The volumes are {self.volume_K.tolist()}, but each task needs at least one row.")
        self.batch_size, self.composition, self.seed = batch_size, composition, seed
        self.step = 0
        self.cursor_K = np.zeros(len(self.rows_K), np.int64)
        self.sample_K = np.full(len(self.rows_K), 1 / len(self.rows_K))

    def set_mixture(self, sample_K: torch.Tensor | np.ndarray) -> None:
        """Takes the probabilities of the next draw."""
        self.sample_K = np.asarray(sample_K, np.float64)

    def draw(self) -> Draw:
        """The next global batch, in random order."""
        rng = np.random.default_rng((self.seed, self.step))
        count_K = self._counts(rng)
        task_B = np.repeat(np.arange(len(count_K)), count_K)
        place_B = np.arange(self.batch_size) - np.repeat(np.cumsum(count_K) - count_K, count_K)
        row_B = self._rows(task_B, self.cursor_K[task_B] + place_B)
        self.cursor_K = self.cursor_K + count_K
        self.step += 1
        order = rng.permutation(self.batch_size)
        return Draw(task_B[order], row_B[order], self.sample_K[task_B[order]], count_K)

    @property
    def epochs_K(self) -> np.ndarray:
        """Times each task's rows were seen, (K,)."""
        return self.cursor_K / self.rows_K

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "cursor_K": torch.from_numpy(self.cursor_K.copy()),
            "sample_K": torch.from_numpy(self.sample_K.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["cursor_K"]) != len(self.rows_K):
            raise MixalignError(
                f"The checkpoint was written with {len(state['cursor_K'])} tasks, but this run has "
                f"{len(self.rows_K)}. Resume with the same `data.tasks`."
            )
        self.step = state["step"]
        self.cursor_K = state["cursor_K"].numpy().copy()
        self.sample_K = state["sample_K"].numpy().copy()

    def _counts(self, rng: np.random.Generator) -> np.ndarray:
        if self.composition == "multinomial":
            return rng.multinomial(self.batch_size, self.sample_K / self.sample_K.sum())
        edges = np.cumsum(self.sample_K) * (self.batch_size / self.sample_K.sum())
        edges[-1] = self.batch_size
        return np.diff(np.floor(edges + rng.random()).astype(np.int64), prepend=0)

    def _rows(self, task_B: np.ndarray, position_B: np.ndarray) -> np.ndarray:
        rows_B, volume_B = self.rows_K[task_B], self.volume_K[task_B]
        epoch_B, index_B = np.divmod(position_B, volume_B)
        place_B = permute(index_B, volume_B, self._keys(task_B, epoch_B))
        if (self.volume_K == self.rows_K).all():
            return place_B
        return permute(place_B % rows_B, rows_B, self._keys(task_B, np.full(len(task_B), NO_EPOCH)))

    def _keys(self, task_B: np.ndarray, epoch_B: np.ndarray) -> np.ndarray:
        """Names of permutations: one for each task and epoch."""
        name_B = np.stack([np.full(len(task_B), self.seed), task_B, epoch_B]).astype(np.uint64)
        return mix_bits(mix_bits(mix_bits(name_B[0]) + name_B[1]) + name_B[2])

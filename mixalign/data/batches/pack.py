"""Tokenised rows to one packed sequence: no padding, and the prompt of a pair only once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from mixalign.data.batches.collate import Sides, pick, score_columns
from mixalign.data.dataset import TaskDataset
from mixalign.types import Batch, Segment, TokenRow

__all__ = ["pack"]

ROUND = 128  # the packed length is a multiple of this, so that matrix kernels meet few shapes


class _Row(NamedTuple):
    """The arrays of one row, placed at `offset` of the pack."""

    ids: np.ndarray
    positions: np.ndarray
    segments: list[Segment]
    predict: np.ndarray
    target: np.ndarray
    counts: list[int]


def pack(
    datasets: Sequence[TaskDataset], task_B: np.ndarray, row_B: np.ndarray, /, sides: Sides = None, *, pad_id: int = 0
) -> Batch:
    """Lays the chosen rows one behind the other: `prompt completion_1 .. completion_S` for each.

    The first completion continues its prompt; every further one is a segment of its own that looks back at the
    prompt, with position ids that restart behind it. The log-probabilities are those of the padded layout
    (`collate`), and so are the other entries of the batch; `input_ids` has one row.

    Args:
        datasets: the tasks' tables, all with the same number of completions S.
        task_B: task of each sample.
        row_B: row of each sample within its task.
        sides: which of the completions are there, and in `reference_logp_BS`.
    """
    placed: list[_Row] = []
    offset = 0
    for task, row in zip(task_B, row_B, strict=True):
        placed.append(_place(pick(datasets[task][int(row)], sides), offset))
        offset += len(placed[-1].ids)
    extra = -offset % ROUND
    filler = np.full(extra, pad_id, np.int32)
    counts = [count for row in placed for count in row.counts]
    ids = np.concatenate([*(row.ids for row in placed), filler]).astype(np.int64)
    positions = np.concatenate([*(row.positions for row in placed), np.zeros(extra, np.int64)])
    batch = Batch(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.from_numpy(positions)[None],
        segments=[segment for row in placed for segment in row.segments],
        predict_N=torch.from_numpy(np.concatenate([row.predict for row in placed])),
        target_N=torch.from_numpy(np.concatenate([row.target for row in placed]).astype(np.int64)),
        sequence_N=torch.from_numpy(np.repeat(np.arange(len(counts)), counts)),
        num_tokens_BS=torch.tensor(counts, dtype=torch.float32).view(len(placed), -1),
        task_B=torch.from_numpy(np.asarray(task_B, np.int64)),
        row_id_B=torch.tensor([int(datasets[t].row_id_N[int(r)]) for t, r in zip(task_B, row_B, strict=True)]),
    )
    return batch | score_columns(datasets, task_B, row_B, sides)


def _place(row: TokenRow, offset: int) -> _Row:
    prompt, completions = row["prompt"], row["completions"]
    num_prompt = len(prompt)
    positions, segments, predict, target, counts = [np.arange(num_prompt)], [], [], [], []
    start = offset + num_prompt
    for s, (completion, supervised) in enumerate(zip(completions, row["supervised"], strict=True)):
        place = np.flatnonzero(supervised)
        # the first token of every completion is predicted from the last of the prompt
        predict.append(np.where(place == 0, offset + num_prompt - 1, start + place - 1))
        target.append(completion[place])
        counts.append(len(place))
        positions.append(num_prompt + np.arange(len(completion)))
        if s == 0:
            segments.append(Segment(offset, num_prompt + len(completion), 0, 0))
        elif len(completion):
            segments.append(Segment(start, len(completion), offset, num_prompt))
        start += len(completion)
    return _Row(
        np.concatenate([prompt, *completions]),
        np.concatenate(positions),
        segments,
        np.concatenate(predict),
        np.concatenate(target),
        counts,
    )

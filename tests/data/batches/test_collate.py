"""A batch of two rows, checked by hand."""

import numpy as np
import pytest
import torch

from mixalign.data.batches.collate import collate
from mixalign.data.dataset import TaskDataset

PAD = 0


@pytest.fixture
def tables(make_row):
    """Task 0 holds row A; task 1 holds a row that is not drawn, and row B, which has no prompt."""
    a = make_row(11, [1, 5, 6], ([7, 2], "xx"), ([8, 9, 2], "x-x"))
    unused = make_row(12, [1], ([3], "x"), ([3], "x"))
    b = make_row(13, [], ([1, 7, 4, 2], "--xx"), ([1, 4], "-x"))
    return [TaskDataset.from_rows("first", [a], 2), TaskDataset.from_rows("second", [unused, b], 2)]


@pytest.fixture
def batch(tables):
    return collate(tables, np.array([1, 0]), np.array([1, 0]), pad_id=PAD)


def test_sequences_are_padded_on_the_right_to_the_longest(batch):
    assert batch["input_ids"].tolist() == [
        [1, 7, 4, 2, 0, 0],  # B chosen
        [1, 4, 0, 0, 0, 0],  # B rejected
        [1, 5, 6, 7, 2, 0],  # A chosen
        [1, 5, 6, 8, 9, 2],  # A rejected
    ]


def test_each_target_is_predicted_one_position_before_it(batch):
    """Flat positions, row * 6 + t. Unsupervised tokens (9 of A, the first of B) are no targets."""
    assert list(zip(batch["predict_N"].tolist(), batch["target_N"].tolist(), strict=True)) == [
        (0 * 6 + 1, 4),
        (0 * 6 + 2, 2),
        (1 * 6 + 0, 4),  # B's rejected answer is predicted from its first token
        (2 * 6 + 2, 7),  # the last prompt token predicts the answer's first
        (2 * 6 + 3, 2),
        (3 * 6 + 2, 8),
        (3 * 6 + 4, 2),  # from 9, which is itself not supervised
    ]
    ids = batch["input_ids"].flatten()
    assert ids[batch["predict_N"] + 1].tolist() == batch["target_N"].tolist()


def test_targets_know_their_sequence_and_are_counted(batch):
    assert batch["sequence_N"].tolist() == [0, 0, 1, 2, 2, 3, 3]
    assert batch["num_tokens_BS"].tolist() == [[2.0, 1.0], [2.0, 2.0]]
    assert torch.bincount(batch["sequence_N"]).tolist() == batch["num_tokens_BS"].flatten().tolist()


def test_samples_know_their_task_and_row(batch):
    assert batch["task_B"].tolist() == [1, 0]
    assert batch["row_id_B"].tolist() == [13, 11]


def test_dtypes(batch):
    whole = ("input_ids", "predict_N", "target_N", "sequence_N", "task_B", "row_id_B")
    assert {name: batch[name].dtype for name in whole} == dict.fromkeys(whole, torch.int64)
    assert batch["num_tokens_BS"].dtype == torch.float32


def test_scores_come_along_when_every_drawn_task_has_them(tables, batch):
    assert not {"reference_logp_BS", "specialist_loss_B"} & {*batch}
    tables[0].attach("reference_logp", np.array([[-1.0, -2.0]]))
    tables[1].attach("reference_logp", np.array([[-3.0, -4.0], [-5.0, -6.0]]))
    tables[1].attach("specialist_loss", np.array([0.1, 0.2], np.float32))
    batch = collate(tables, np.array([1, 0]), np.array([1, 0]))
    assert batch["reference_logp_BS"].tolist() == [[-5.0, -6.0], [-1.0, -2.0]]
    assert batch["reference_logp_BS"].dtype == torch.float64
    assert "specialist_loss_B" not in batch, "task 0 has none"
    alone = collate(tables, np.array([1]), np.array([1]))
    assert alone["specialist_loss_B"].tolist() == pytest.approx([0.2])


def test_one_completion_a_row(tables):
    chosen = [table.first_completion() for table in tables]
    batch = collate(chosen, np.array([1, 0]), np.array([1, 0]))
    assert batch["input_ids"].tolist() == [[1, 7, 4, 2, 0], [1, 5, 6, 7, 2]]
    assert batch["predict_N"].tolist() == [1, 2, 5 + 2, 5 + 3]
    assert batch["num_tokens_BS"].tolist() == [[2.0], [2.0]]

"""Scores of frozen models: the numbers that training computes for the same rows."""

from math import log

import numpy as np
import pytest
import torch

from mixalign.data.batches.collate import collate
from mixalign.data.dataset import TaskDataset
from mixalign.frozen.score import score_rows
from mixalign.frozen.table import ScoreTable
from mixalign.models.forward import score_completions
from mixalign.objectives import frozen_losses as module
from mixalign.objectives.dpo import DPO
from mixalign.objectives.frozen_losses import frozen_losses


def moved(model, seed: int = 1):
    """Another model: every weight has changed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return model


def test_scores_are_those_of_each_row_by_itself(dpo_job):
    model, table = dpo_job.start().eval(), dpo_job.train[1]
    found_NS = score_rows(model, table, {}, batch_size=7).align(table)
    assert found_NS.shape == (len(table), 2)
    assert found_NS.dtype == np.float64
    for n in range(0, len(table), 9):
        alone = score_completions(model, collate([table], np.array([0]), np.array([n]))).logp_BS[0]
        np.testing.assert_allclose(found_NS[n], alone.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_batch_size_changes_nothing(dpo_job, batch_size):
    model, table = dpo_job.start(), dpo_job.train[0]
    wanted = score_rows(model, table, {}).logp_NS
    np.testing.assert_allclose(score_rows(model, table, {}, batch_size).logp_NS, wanted, rtol=1e-5)


def test_the_table_has_the_order_of_the_rows_and_carries_its_recipe(dpo_job):
    seen = []
    table = score_rows(dpo_job.start(), dpo_job.train[0], {"model": "m"}, 16, on_batch=seen.append)
    assert (table.row_id_N == dpo_job.train[0].row_id_N).all()
    assert table.align(dpo_job.train[0]) is table.logp_NS
    assert table.recipe == {"model": "m"}
    assert seen == [16, 16, 16, 12]  # 60 rows


def test_rows_with_the_same_content_have_the_same_scores(dpo_job):
    table = dpo_job.train[0]
    twice = TaskDataset.from_rows("twice", [table[n] for n in (0, 1, 0, 2, 1)], 2)
    scores = score_rows(dpo_job.start(), twice, {}, batch_size=2)
    np.testing.assert_allclose(scores.logp_NS[[0, 1]], scores.logp_NS[[2, 4]], rtol=1e-6)
    once = TaskDataset.from_rows("once", [table[n] for n in (2, 1, 0)], 2)
    assert (scores.align(once) == scores.logp_NS[[3, 1, 0]]).all()


def test_dropout_is_off_while_scoring(dpo_job):
    model = dpo_job.start()
    model.config.attention_dropout = 0.5
    for part in model.modules():
        if hasattr(part, "attention_dropout"):
            part.attention_dropout = 0.5
    model.train()
    found = score_rows(model, dpo_job.train[0], {}).align(dpo_job.train[0])
    np.testing.assert_allclose(found, dpo_job.train[0].columns["reference_logp"], rtol=1e-6)


def test_frozen_losses_are_the_objective_under_the_specialist(dpo_job):
    objective = DPO().for_tasks([{}, {"beta": 0.9, "label_smoothing": 0.2}, {}])
    table, specialist = dpo_job.train[1], moved(dpo_job.start())
    scores = score_rows(specialist, table, {})
    found = frozen_losses(objective, table, scores.align(table), task=1)
    batch = collate([table, table], np.ones(len(table), int), np.arange(len(table)))
    with torch.no_grad():
        wanted = objective(specialist, batch)["loss"]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5)
    assert found.dtype == np.float32
    other = frozen_losses(objective, table, scores.align(table), task=0)
    assert np.abs(other - found).max() > 0.01  # each task has its own beta


@pytest.mark.parametrize("chunk", [1, 7, 60])
def test_frozen_losses_may_be_computed_in_parts(dpo_job, monkeypatch, tmp_path, chunk):
    """And the scores may be mapped arrays that nobody can write to."""
    table = dpo_job.train[0]
    logp_NS = table.columns["reference_logp"] - [0.5, 0.25]
    wanted = frozen_losses(dpo_job.objective, table, logp_NS, task=0)
    monkeypatch.setattr(module, "CHUNK", chunk)
    for name, scores in (("reference_logp", table.columns["reference_logp"]), ("specialist", logp_NS)):
        ScoreTable(table.row_id_N, scores, {}).save(tmp_path / name)
    table.attach("reference_logp", ScoreTable.load(tmp_path / "reference_logp", {}).align(table))
    mapped = ScoreTable.load(tmp_path / "specialist", {}).align(table)
    assert (frozen_losses(dpo_job.objective, table, mapped, task=0) == wanted).all()


def test_a_specialist_that_is_the_reference_has_a_loss_of_log_2(dpo_job):
    table = dpo_job.train[0]
    found = frozen_losses(dpo_job.objective, table, table.columns["reference_logp"], task=0)
    np.testing.assert_allclose(found, log(2), rtol=1e-6)


def test_frozen_losses_of_supervised_rows_need_no_reference(sft_job):
    table, specialist = sft_job.train[2], moved(sft_job.start())
    found = frozen_losses(sft_job.objective, table, score_rows(specialist, table, {}).align(table), task=2)
    batch = collate([table], np.zeros(len(table), int), np.arange(len(table)))
    with torch.no_grad():
        wanted = sft_job.objective(specialist, batch)["loss"]
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5)
    assert "reference_logp" not in table.columns

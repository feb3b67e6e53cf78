"""KTO on numbers that a reader can check, and through a training."""

from math import e
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mixalign.data.batches.collate import collate
from mixalign.data.batches.pack import pack
from mixalign.errors import MixalignError
from mixalign.losses.kto import kl_estimate
from mixalign.objectives.frozen_losses import frozen_losses
from mixalign.objectives.kto import KTO
from mixalign.types import Batch

# log ratios of the rows' own answers 3, 3, -1 and of other rows' 2, 0, 1: these have the mean 1
LOGP_BS = torch.tensor([[-7.0, -8.0], [-7.0, -10.0], [-11.0, -9.0]], dtype=torch.float64)
BATCH = Batch(
    reference_logp_BS=torch.full((3, 2), -10.0, dtype=torch.float64),
    label_B=torch.tensor([True, False, True]),
    task_B=torch.tensor([0, 0, 1]),
    kl_K=torch.ones(2, dtype=torch.float64),
)
P = 1 / (1 + 1 / e)  # sigmoid(1) = 0.731059


def test_numbers_of_a_batch():
    scores = KTO(beta=0.5).scores(LOGP_BS, BATCH)
    assert scores["margin"].tolist() == pytest.approx([1, -1, -1])  # 0.5 * (3 - 1), and so on
    assert scores["loss"].tolist() == pytest.approx([1 - P, P, P])
    assert scores["accuracy"].tolist() == [1, 0, 0]
    assert {value.dtype for value in scores.values()} == {torch.float32}


def test_without_the_estimate_ratios_are_measured_from_0():
    one = BATCH | Batch(reference_logp_BS=BATCH["reference_logp_BS"][:, :1])
    scores = KTO(beta=1 / 3, loss="apo_zero_unpaired").scores(LOGP_BS[:, :1], one)
    assert scores["margin"].tolist() == pytest.approx([1, -1, -1 / 3])


def test_the_estimate_is_the_mean_ratio_of_other_answers_of_each_task_at_least_0():
    weighted = BATCH | Batch(weight_B=torch.tensor([1.0, 3.0, 1.0]))
    low = BATCH | Batch(reference_logp_BS=torch.tensor([[-10.0, 0.0]], dtype=torch.float64).repeat(3, 1))
    for batch, wanted in ((BATCH, [1, 1, 0]), (weighted, [0.5, 1, 0]), (low, [0, 0, 0])):
        sums_2K = KTO().kl_sums(LOGP_BS.clone().requires_grad_(), batch, 3)  # nobody of the third task is there
        assert kl_estimate(sums_2K).tolist() == pytest.approx(wanted)
        assert not sums_2K.requires_grad


def test_each_task_is_measured_from_its_own_estimate():
    scores = KTO(beta=0.5).scores(LOGP_BS, BATCH | Batch(kl_K=torch.tensor([1.0, 0.0])))
    assert scores["margin"].tolist() == pytest.approx([1, -1, -0.5])


def test_weights_and_beta_by_task():
    objective = KTO(undesirable_weight=3.0).for_tasks([{"beta": 0.5}, {"beta": 2, "desirable_weight": 0.25}])
    assert objective == KTO(beta=(0.5, 2.0), desirable_weight=(1.0, 0.25), undesirable_weight=3.0)
    scores = objective.scores(LOGP_BS, BATCH)
    assert scores["loss"].tolist() == pytest.approx([1 - P, 3 * P, 0.25 / (1 + e**-4)])


def test_a_tie_is_no_win():
    tie = BATCH | Batch(kl_K=torch.zeros(2))
    assert KTO().scores(torch.full((3, 2), -10.0), tie)["accuracy"].tolist() == [0, 0, 0]


def test_only_own_answers_have_a_gradient():
    logp_BS = LOGP_BS.clone().requires_grad_()
    KTO(beta=0.5).scores(logp_BS, BATCH)["loss"].sum().backward()
    slope = 0.5 * P * (1 - P)
    assert logp_BS.grad.tolist() == [pytest.approx([g, 0]) for g in (-slope, slope, -slope)]


def test_fisher_is_the_convex_part_of_the_second_derivative(monkeypatch):
    """Bends down by p (1 - p) (1 - 2p) beta^2 at h = -1, and up by as much at h = 1."""
    logp_BS = LOGP_BS.clone().requires_grad_()
    monkeypatch.setattr("mixalign.objectives.kto.score_completions", lambda *_: SimpleNamespace(logp_BS=logp_BS))
    loss_B = KTO(beta=0.5).fisher_loss(None, BATCH, torch.Generator().manual_seed(0))
    (g_BS,) = torch.autograd.grad(loss_B.double().sum(), logp_BS)
    bend = 0.25 * P * (1 - P) * (2 * P - 1)  # 0.0227144
    assert g_BS.square().tolist() == [pytest.approx(x, abs=1e-8) for x in ([bend, 0], [0, 0], [0, 0])]


BAD = [
    ({"beta": 0}, "`objective.beta` is 0, but must be a number above 0. 0.1 is usual"),
    ({"desirable_weight": -1.0}, "`objective.desirable_weight` is -1.0, but must be a number from 0 on"),
    ({"undesirable_weight": "a"}, "`objective.undesirable_weight` is 'a', but must be a number from 0 on"),
    ({"loss": "sigmoid"}, "`objective.loss` is 'sigmoid'. .*kto"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=str)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(MixalignError, match=message):
        KTO(**settings)


def test_rows_are_of_one_kind_in_all_tasks():
    with pytest.raises(MixalignError, match=r"objective.loss` is no setting of kto"):
        KTO().for_tasks([{"loss": "apo_zero_unpaired"}])


@pytest.fixture(scope="module")
def kto_job(small_job):
    return small_job(objective=KTO(beta=0.5))


def test_it_trains(kto_job, tmp_path):
    run = kto_job.run(tmp_path, steps=30, val_every=30)
    assert all(len(table) == 2 * 7 for table in kto_job.validation)  # pairs, taken apart
    losses = [float(batch.loss_B.mean()) for batch in run.seen.batches]
    assert losses[0] == pytest.approx(0.5, abs=1e-6)
    assert np.mean(losses[-5:]) < 0.45
    assert {"accuracy", "margin"} <= {*run.module.evaluation}


def test_layouts_agree(kto_job):
    model = kto_job.start()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 1.1  # away from the reference
    rows = torch.tensor([[0, 1, 2, 2], [1, 2, 3, 90]]).numpy()
    kl = Batch(kl_K=torch.full((3,), 0.3))
    padded, packed = (KTO(0.5)(model, layout(kto_job.train, *rows) | kl) for layout in (collate, pack))
    assert padded["margin"].abs().min() > 0
    for key, value_B in padded.items():
        torch.testing.assert_close(packed[key], value_B, rtol=1e-5, atol=1e-5)


def test_frozen_losses_read_the_labels(kto_job):
    table = kto_job.train[0]
    logp_NS = table.columns["reference_logp"] + [2.0, 1.0]
    found = frozen_losses(KTO(beta=1.0), table, logp_NS, 0)
    assert found.tolist() == pytest.approx(np.where(table.columns["label"], 1 - P, P).tolist(), abs=1e-6)

"""Settings of speed change no loss, gradient, evaluation or measurement of any objective: micro-batches, batches of
evaluation and scoring, layouts. Processes are in test_ranks.py.

In float64, away from the reference policy, with weights of rows in one task.
"""

from functools import lru_cache

import numpy as np
import pytest
import torch

from mixalign.data.batches.collate import collate
from mixalign.data.batches.pack import pack
from mixalign.frozen.score import score_rows
from mixalign.influence.benefit import measure
from mixalign.influence.settings import Influence, Reading
from mixalign.losses.preference import LOSSES
from mixalign.mixers.ama_r import AMAR
from mixalign.objectives import frozen_losses as by_chunk
from mixalign.objectives.dpo import DPO
from mixalign.objectives.kto import KTO
from mixalign.objectives.sft import SFT
from mixalign.training.callbacks.gradient_probe import GradientProbe
from mixalign.training.callbacks.trial_step import TrialStep
from mixalign.training.callbacks.validation_probe import ValidationProbe
from tests.conftest import make_job

OBJECTIVES = {name: DPO(beta=0.5, loss=name) for name in LOSSES}
OBJECTIVES |= {
    "with NLL": DPO(beta=0.5, nll_weight=0.7),
    "reference_free": DPO(beta=0.5, reference_free=True),
    "by task": DPO(beta=(0.5, 0.1, 0.2), loss=("sigmoid", "ipo", "orpo")),
    "kto": KTO(beta=0.5, desirable_weight=1.3),
    "apo_zero_unpaired": KTO(beta=0.5, loss="apo_zero_unpaired"),
    "sft": SFT(),
}
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


@lru_cache(None)
def job_of(name):
    job = make_job(objective=OBJECTIVES[name], dtype=torch.float64, validation_rows=5)
    model = elsewhere(job)
    for tables in (job.train, job.validation):
        tables[1].attach("weight", np.arange(len(tables[1]), dtype=np.float32) % 3)
        for k, table in enumerate(tables):  # about as good as the model, in the last task better than it
            logp_NS = score_rows(model, table, {}).align(table)
            off_N = (table.row_id_N % 1009) / 1009 - (0.7, 0.7, 0.2)[k]
            specialist_N = by_chunk.frozen_losses(job.objective, table, logp_NS, k) + off_N
            table.attach("specialist_loss", specialist_N.astype(np.float32))
    return job


def elsewhere(job):
    model = job.start()
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=noise, dtype=weight.dtype)
    return model


def trained(name, folder, mixer=None, **settings):
    job = job_of(name)
    return job.run(folder, mixer or AMAR(eta=0.5), steps=1, batch_size=8, model=elsewhere(job), **settings)


def assert_same_step(one, other):
    assert other.seen.losses() == pytest.approx(one.seen.losses(), rel=1e-6)
    torch.testing.assert_close(one.seen.alphas[0], other.seen.alphas[0], rtol=1e-6, atol=0)
    largest = max(float(grad.abs().max()) for grad in one.seen.grads[0].values())
    assert largest > 1e-6
    for key, grad in one.seen.grads[0].items():
        assert float((grad - other.seen.grads[0][key]).abs().max()) < 1e-6 * largest, key


@every_objective
def test_the_step_of_one_global_batch(name, tmp_path):
    whole = trained(name, tmp_path)
    for settings in ({"micro": 1}, {"micro": 2}, {"layout": pack}, {"layout": pack, "micro": 4}):
        assert_same_step(whole, trained(name, tmp_path, **settings))


@pytest.mark.parametrize("name", ["sigmoid", "kto", "sft"])
def test_clipping_by_task_takes_the_mean_over_the_global_batch_first(name, tmp_path):
    """Some tasks are in and some are out, of which single rows would say otherwise."""
    mixer = AMAR(eta=0.5, clip="task")
    whole = trained(name, tmp_path, mixer)
    assert {*(whole.mixing.signal.excess_K > 0).tolist()} == {True, False}
    assert min(int((whole.seen.batches[0].excess_B * sign > 0).sum()) for sign in (1, -1)) > 1
    for micro in (1, 2, 4):
        assert_same_step(whole, trained(name, tmp_path, mixer, micro=micro))


@every_objective
def test_evaluation(name, tmp_path):
    found = [
        trained(name, tmp_path, eval_batch_size=size, layout=layout).module.evaluation
        for size, layout in ((100, collate), (1, collate), (4, collate), (7, pack))
    ]
    for other in found[1:]:
        for quantity, value_K in found[0].items():
            torch.testing.assert_close(other[quantity], value_K, rtol=1e-5, atol=1e-5)


@every_objective
def test_losses_of_frozen_models(name, monkeypatch):
    job = job_of(name)
    model, found = elsewhere(job), []
    for size, layout, chunk in ((100, collate, 4096), (1, collate, 3), (7, pack, 1)):
        monkeypatch.setattr(by_chunk, "CHUNK", chunk)
        table = job.train[1]
        logp_NS = score_rows(model, table, {}, size, layout).align(table)
        found.append(by_chunk.frozen_losses(job.objective, table, logp_NS, 1))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["sigmoid", "kto", "sft"])
@pytest.mark.parametrize("probe", [GradientProbe, TrialStep, ValidationProbe])
def test_probes(name, probe, tmp_path):
    found = []

    class Kept(probe):
        def measure(self, trainer, pl_module):
            found.append(super().measure(trainer, pl_module))
            return {}

    for settings in ({}, {"micro": 1, "eval_batch_size": 2}, {"micro": 2, "layout": pack}):
        trained(name, tmp_path, callbacks=[Kept(AMAR(), rows=6, validation_rows=4)], **settings)
    for other in found[1:]:
        for quantity, value in found[0].items():
            torch.testing.assert_close(other[quantity], value, rtol=1e-5, atol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize("name", ["sigmoid", "kto", "sft"])
@pytest.mark.parametrize("curvature", ["identity", "kfac", "ekfac"])
@pytest.mark.parametrize("fisher", [True, "empirical"])
def test_influence(name, curvature, fisher):
    """Labels are drawn for each batch, so that with drawn ones the batches are the same and only layouts differ."""
    job, found = job_of(name), []
    sizes = ((100, collate), (100, pack)) if fisher is True else ((100, collate), (100, pack), (2, pack))
    for size, layout in sizes:
        influence = Influence(curvature=curvature, fisher=fisher, samples=6, bootstrap=20)
        reading = Reading(size, layout)
        found.append(measure(elsewhere(job), job.objective, job.train, job.validation, influence, reading))
    for other in found[1:]:
        for key in ("product_K", "resampled_XK"):
            wanted = getattr(found[0], key)
            np.testing.assert_allclose(getattr(other, key), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())

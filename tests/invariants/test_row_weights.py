"""A row of weight 3 is a row that lies in its table three times, and one of weight 0 a row that is not there.

In float64, so that rounding does not hide a difference.
"""

from copy import copy, deepcopy

import numpy as np
import pytest
import torch

from mixalign.config.compose import compose_settings
from mixalign.data.dataset import TaskDataset
from mixalign.data.tokens.cache import TokenCache
from mixalign.files import read_json
from mixalign.fitting.from_specialists import row_scales
from mixalign.frozen.cache import Frozen, score_recipe
from mixalign.influence.benefit import measure
from mixalign.influence.settings import Influence
from mixalign.jobs.job import prepare, rows_fingerprint
from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.ama_s import AMAS
from mixalign.mixers.fixed import Temperature
from mixalign.objectives.dpo import DPO
from mixalign.objectives.frozen_losses import frozen_losses
from mixalign.objectives.kto import KTO
from mixalign.objectives.sft import SFT
from mixalign.training.callbacks.gradient_probe import GradientProbe
from mixalign.training.callbacks.trial_step import TrialStep
from mixalign.training.callbacks.validation_probe import ValidationProbe
from mixalign.verbs.evaluate import run as evaluate
from tests.tiny_runs import train_from_overrides

UNIFORM = Temperature(float("inf"))
OBJECTIVES = {"sft": SFT(), "dpo": DPO(beta=0.5), "kto": KTO(beta=0.5)}
PARTS = {"helpful": 4, "reverse": 4}
WEIGHTS = {"two rows": [3, 1], "four rows": [3, 1, 2, 0]}


def repeated(table: TaskDataset, times: list[int]) -> TaskDataset:
    """Every row as often as it is told, its columns with it."""
    place_M = np.repeat(np.arange(len(times)), times)
    out = TaskDataset.from_rows(table.task, [table[int(n)] for n in place_M], table.num_completions)
    for name, value_N in table.columns.items():
        out.attach(name, np.array(value_N)[place_M])
    return out


def first(table: TaskDataset, number: int) -> TaskDataset:
    return repeated(table, [1] * number + [0] * (len(table) - number))


def twins(small_job, objective, times):
    """A job whose rows have weights, and one in which they are repeated."""
    whole = small_job(PARTS, objective=objective, validation_rows=4, dtype=torch.float64)
    weighted, many = copy(whole), copy(whole)
    for name in ("train", "validation"):
        tables = [first(table, len(times)) for table in getattr(whole, name)]
        setattr(many, name, [repeated(table, times) for table in tables])
        for table in tables:
            table.attach("weight", np.array(times, np.float32))
        setattr(weighted, name, tables)
    return weighted, many


def full_batch(job, folder, mixer, **settings):
    rows = sum(map(len, job.train))
    return job.run(folder, mixer, steps=1, batch_size=rows, composition="stratified", val_every=1, lr=1e-12, **settings)


def assert_close(found, wanted, tolerance=1e-6):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("mixer", [UNIFORM, AMAR(eta=0.5), AMAR(eta=0.5, clip="task"), AMAS(eta=0.5)])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("times", WEIGHTS.values(), ids=WEIGHTS)
def test_a_weight_is_a_number_of_copies(small_job, tmp_path, objective, times, mixer):
    weighted, many = (full_batch(job, tmp_path, mixer) for job in twins(small_job, OBJECTIVES[objective], times))
    largest = max(float(grad.abs().max()) for grad in many.seen.grads[0].values())
    for name, grad in many.seen.grads[0].items():
        assert float((weighted.seen.grads[0][name] - grad).abs().max()) <= 1e-6 * max(largest, 1e-9), name
    for name in ("loss_K", "excess_K", "eval_loss_K", "eval_excess_K", "loss_iw_K", "excess_iw_K"):
        assert_close(getattr(weighted.mixing.signal, name), getattr(many.mixing.signal, name))
    assert_close(weighted.seen.batches[0].loss, many.seen.batches[0].loss)
    assert_close(torch.stack(weighted.seen.alphas), torch.stack(many.seen.alphas))
    found, wanted = weighted.module.evaluation, many.module.evaluation
    assert {*found} == {*wanted}
    assert found["count"].tolist() == [len(times)] * 2  # rows are rows
    for name in {*wanted} - {"count"}:
        assert_close(found[name], wanted[name])
    for name, value in many.module.summary.items():
        assert weighted.module.summary[name] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_by_hand(small_job, tmp_path, objective):
    """Two rows of losses a and b with weights 3 and 1: (3a + b) / 4."""
    job, _ = twins(small_job, OBJECTIVES[objective], [3, 1])
    run = full_batch(job, tmp_path, UNIFORM)
    seen = run.seen.batches[0]
    assert seen.weight_B.dtype == torch.float32
    for k, table in enumerate(job.train):
        loss = dict(zip(seen.row_id_B.tolist(), seen.loss_B.tolist(), strict=True))
        a, b = (loss[int(row)] for row in table.row_id_N)
        assert float(run.mixing.signal.loss_K[k]) == pytest.approx((3 * a + b) / 4, rel=1e-6)
    assert float(seen.loss) == pytest.approx(float(run.mixing.signal.loss_K.mean()), rel=1e-6)


def weigh(job, seed=0, tasks=(0, 1)):
    rng = np.random.default_rng(seed)
    for tables in (job.train, job.validation):
        for k in tasks:
            weight_N = rng.integers(0, 4, len(tables[k]))
            weight_N[0] = 2
            tables[k].attach("weight", weight_N.astype(np.float32))
    return job


@pytest.mark.parametrize("objective", ["sft", "dpo"])
@pytest.mark.parametrize("mixer", [AMAR(eta=0.5), AMAS(eta=0.5)], ids=["ama_r", "ama_s"])
def test_micro_batches_change_nothing(small_job, tmp_path, objective, mixer):
    job = weigh(small_job(objective=OBJECTIVES[objective], dtype=torch.float64))
    runs = [job.run(tmp_path, mixer, steps=4, micro=micro, val_every=2, lr=1e-3) for micro in (None, 6, 2)]
    for other in runs[1:]:
        assert_close(torch.stack(other.seen.alphas), torch.stack(runs[0].seen.alphas), 1e-6)
        weights = other.weights()
        for name, weight in runs[0].weights().items():
            assert_close(weights[name], weight, 1e-7)
        for name, value_K in runs[0].module.evaluation.items():
            assert_close(other.module.evaluation[name], value_K, 1e-6)


def test_steps_on_single_rows_are_together_the_step_on_all(small_job, tmp_path):
    """Also a batch with one row of a task knows how much that row counts: divided by its own weight it would not."""
    job, _ = twins(small_job, SFT(), [3, 1, 2, 0])
    job.tasks, job.train, job.validation = job.tasks[:1], job.train[:1], job.validation[:1]
    whole = full_batch(job, tmp_path, UNIFORM)
    single = job.run(tmp_path, UNIFORM, steps=4, batch_size=1, lr=1e-12)
    for name, grad in whole.seen.grads[0].items():
        assert_close(torch.stack([grads[name] for grads in single.seen.grads]).mean(0), grad)


@pytest.mark.parametrize("mixer", [AMAR(eta=0.5), AMAS(eta=0.5, clip="task")], ids=["ama_r", "ama_s"])
def test_equal_weights_are_none(dpo_job, tmp_path, mixer):
    plain = deepcopy(dpo_job)
    for table in (*dpo_job.train, *dpo_job.validation):
        table.attach("weight", np.full(len(table), 2.5, np.float32))
    one, other = (job.run(tmp_path, mixer, steps=5, micro=6, val_every=2) for job in (dpo_job, plain))
    assert one.seen.losses() == other.seen.losses()
    assert all(a.equal(b) for a, b in zip(one.seen.alphas, other.seen.alphas, strict=True))
    assert all(weight.equal(other.weights()[name]) for name, weight in one.weights().items())
    assert all(x.equal(other.module.evaluation[name]) for name, x in one.module.evaluation.items())
    assert one.mixing.signal.weight_K is None


def test_a_batch_in_which_nothing_of_a_task_counts_is_no_failure(small_job, tmp_path):
    """Its mean is not there, as if none of its rows had been drawn, while what was drawn is counted."""
    job = small_job({"helpful": 8, "reverse": 8}, objective=SFT())
    job.train[0].attach("weight", np.array([1, *[0] * 7], np.float32))
    run = job.run(tmp_path, Temperature(1.0), steps=8, batch_size=2, history=tmp_path / "mix.jsonl")
    signal = run.mixing.signal
    assert signal.count_K.tolist() == [1, 1]
    assert signal.weight_K[0].item() in (0, 8)
    lines = [line for line in (tmp_path / "mix.jsonl").read_text().splitlines() if '"task_loss": [null,' in line]
    assert len(lines) == 7
    assert all('"count": [1, 1]' in line for line in lines)


@pytest.mark.parametrize("micro", [None, 4])
def test_signals_by_hand(dpo_job, tmp_path, micro):
    """Means divide by weights, and importance-weighted sums by the rows of the batch, which keeps them unbiased."""
    run = weigh(dpo_job).run(tmp_path, AMAS(eta=0.5), steps=3, micro=micro)
    seen, signal = run.seen.batches[-(12 // (micro or 12)) :], run.mixing.signal
    names = ("task_B", "weight_B", "loss_B", "excess_B", "draw_prob_B")
    task_B, weight_B, loss_B, excess_B, prob_B = (torch.cat([getattr(b, name) for b in seen]) for name in names)
    assert len(task_B) == 12
    for k in range(3):
        own = task_B == k
        w, total = weight_B[own].double(), float(weight_B[own].sum())
        for value_B, mean_K, sum_K in (
            (loss_B, signal.loss_K, signal.loss_iw_K),
            (excess_B, signal.excess_K, signal.excess_iw_K),
        ):
            assert float(mean_K[k]) == pytest.approx(float((w * value_B[own]).sum()) / total, rel=1e-5)
            assert float(sum_K[k]) == pytest.approx(float((w * value_B[own] / prob_B[own]).sum()) / 12, rel=1e-5)
        assert float(signal.weight_K[k]) == pytest.approx(total, rel=1e-6)
        assert float(signal.count_K[k]) == int(own.sum())


@pytest.mark.parametrize("probe", [GradientProbe, TrialStep, ValidationProbe])
def test_probes_measure_weighted_means(small_job, tmp_path, probe):
    """All rows are read; the variance of one row's gradient is another for rows that lie there several times."""
    found = []
    for job in twins(small_job, SFT(), [3, 1]):
        kept = {}

        class Kept(probe):
            def measure(self, trainer, pl_module, kept=kept):
                kept.update(super().measure(trainer, pl_module))
                return dict(kept)

        rows = {"rows": max(map(len, job.train)), "validation_rows": 100}
        full_batch(job, tmp_path, UNIFORM, callbacks=[Kept(UNIFORM, **rows)])
        kept.pop("noise_K", None)
        if "gradient_KK" in kept:
            kept["gradient_KK"].fill_diagonal_(0)  # an estimate from two halves
        found.append(kept)
    for name, value in found[1].items():
        assert value.abs().max() > 0
        assert_close(found[0][name], value, 1e-5)


class Repeating(SFT):
    """Draws the labels of the data, so that copies of a row draw alike."""

    def fisher_loss(self, model, batch, generator):
        return self(model, batch)["loss"]


@pytest.mark.parametrize("curvature", ["identity", "kfac", "ekfac"])
@pytest.mark.parametrize("fisher", ["true", "empirical"])
def test_influence_is_that_of_weighted_means(small_job, curvature, fisher):
    weighted, many = twins(small_job, SFT(), [3, 1, 2, 0])
    influence = Influence(curvature=curvature, fisher=fisher, samples=100, bootstrap=1)
    found, wanted = (
        measure(job.start(), Repeating(), job.train, job.validation, influence, volume_K=[1, 1])
        for job in (weighted, many)
    )
    np.testing.assert_allclose(found.dot_K, wanted.dot_K, rtol=1e-5)
    np.testing.assert_allclose(found.product_K, wanted.product_K, rtol=1e-4)


def test_frozen_losses_have_the_point_of_their_rows(small_job):
    """KTO measures from a mean over rows."""
    weighted, many = twins(small_job, KTO(beta=0.5), [3, 1, 2, 0])
    for table, more in zip(weighted.train, many.train, strict=True):
        logp_NS = table.columns["reference_logp"] + np.arange(8).reshape(4, 2) / 3
        found = frozen_losses(KTO(beta=0.5), table, logp_NS, 0)
        wanted = frozen_losses(KTO(beta=0.5), more, np.repeat(logp_NS, [3, 1, 2, 0], 0), 0)
        np.testing.assert_allclose(np.repeat(found, [3, 1, 2, 0]), wanted, rtol=1e-5)
        assert table.mean(found) == pytest.approx(float(wanted.mean()), rel=1e-5)


def test_mixmin_counts_rows_by_weight(small_job):
    weighted, many = twins(small_job, SFT(), [3, 1, 2, 0])
    found, wanted = row_scales(weighted.train), row_scales(many.train)
    assert_close(torch.stack([found[:4].sum(), found[4:].sum()]), torch.stack([wanted[:6].sum(), wanted[6:].sum()]))
    assert float(found[3]) == 0


def test_weights_decide_what_is_trained_and_not_how_a_row_scores(tiny):
    job = prepare(compose_settings(tiny()))
    table, frozen = job.data["train"][0], Frozen("x", lambda: torch.nn.Module())
    before = rows_fingerprint([table]), score_recipe(job, frozen, table)
    table.attach("weight", np.linspace(0, 1, len(table), dtype=np.float32))
    assert rows_fingerprint([table]) != before[0]
    assert score_recipe(job, frozen, table) == before[1]


@pytest.mark.long
@pytest.mark.parametrize("more", [(), ("mixer.wrap.every=2",), ("objective=kto",), ("lora=default", "objective=sft")])
def test_a_whole_run_with_weights(tiny, tmp_path, monkeypatch, more):
    """From the reference on; evaluated again it has the same numbers, and other weights are other rows."""
    real, factor = TokenCache.tokenise, {"of": 3}

    def tokenise(self, examples, *, task, **settings):
        table, counts = real(self, examples, task=task, **settings)
        if task != "compare":
            table.attach("weight", (np.arange(len(table)) % factor["of"]).astype(np.float32))
        return table, counts

    monkeypatch.setattr(TokenCache, "tokenise", tokenise)
    overrides = tiny("mixer=ama_s", f"cache_dir={tmp_path / 'cache'}", "val_every=2", *more)
    result = train_from_overrides(overrides, str(tmp_path / "run"))
    evaluate(tmp_path / "run", "test")
    again = read_json(tmp_path / "run" / "eval_test.json")
    assert again["tasks"] == result["tasks"]
    factor["of"] = 4
    with pytest.raises(Exception, match=r"task `helpful` \(train\) has other rows"):
        train_from_overrides(overrides, str(tmp_path / "run"))

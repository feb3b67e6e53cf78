"""What the model descends on, what it reports, and what its checkpoints hold."""

from copy import deepcopy
from math import log

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mixalign.data.batches.collate import collate
from mixalign.errors import MixalignError
from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.base import Mix
from mixalign.models.load import LoRA
from mixalign.models.reference import adapter_off, frozen_copy
from mixalign.objectives.dpo import DPO
from mixalign.objectives.kto import KTO
from mixalign.training.module import AlignModule
from mixalign.training.optimizer import Optimizer


class Fixed:
    """Given weights that never move; `needs` nothing."""

    needs, composition = frozenset(), "multinomial"

    def __init__(self, loss_K=None, sample_K=(0.5, 0.3, 0.2), descends_on="loss", clip="none"):
        self.descends_on, self.clip = descends_on, clip
        loss_K = None if loss_K is None else torch.tensor(loss_K, dtype=torch.float64)
        self.mix = Mix(torch.tensor(sample_K, dtype=torch.float64), loss_K)

    def init(self, rows_K):
        return self.mix, {}

    def update(self, signal, state):
        return self.mix, state


def gradient(job, model, batches, value_of) -> dict[str, torch.Tensor]:
    """The gradients of a number that `value_of` makes of (loss_B, task_B, specialist_loss_B) of a global batch."""
    rows = torch.cat([b.row_id_B for b in batches]).tolist()
    task_B = torch.cat([b.task_B for b in batches])
    place = [{i: n for n, i in enumerate(d.row_id_N.tolist())} for d in job.train]
    row_B = np.array([place[t][i] for t, i in zip(task_B.tolist(), rows, strict=True)])
    batch = collate(job.train, task_B.numpy(), row_B)
    loss_B = job.objective(model, batch)["loss"]
    value_of(loss_B, task_B, batch["specialist_loss_B"]).backward()
    return {n: p.grad for n, p in model.named_parameters()}


def assert_same(found, wanted, tolerance=1e-5):
    largest = max(float(g.abs().max()) for g in wanted.values())
    assert largest > 1e-4
    for name, grad in wanted.items():
        assert float((found[name] - grad).abs().max()) < tolerance * largest, name


def task_means(value_B, task_B):
    return torch.stack([value_B[task_B == k].mean() for k in range(3)])


ALPHA_K = (0.6, 0.1, 0.3)
DESCENTS = {
    "the plain mean": (Fixed(), lambda loss, task, spec: loss.mean()),
    "weighted task means": (
        Fixed(ALPHA_K),
        lambda loss, task, spec: (torch.tensor(ALPHA_K) * task_means(loss, task)).sum(),
    ),
    "excess clipped by sample": (
        Fixed(ALPHA_K, descends_on="excess", clip="sample"),
        lambda loss, task, spec: (torch.tensor(ALPHA_K) * task_means((loss - spec).clamp_min(0), task)).sum(),
    ),
    "excess clipped by task": (
        Fixed(ALPHA_K, descends_on="excess", clip="task"),
        lambda loss, task, spec: (torch.tensor(ALPHA_K) * task_means(loss - spec, task).clamp_min(0)).sum(),
    ),
    "excess that is not clipped": (
        Fixed(ALPHA_K, descends_on="excess", clip="none"),
        lambda loss, task, spec: (torch.tensor(ALPHA_K) * task_means(loss, task)).sum(),
    ),
    "the plain mean of clipped excess": (
        Fixed(descends_on="excess", clip="sample"),
        lambda loss, task, spec: (loss - spec).clamp_min(0).mean(),
    ),
}


# clipping by task looks at one micro-batch at a time, so it is the objective of whole batches only
@pytest.mark.parametrize(
    ("kind", "micro"), [(k, m) for k in DESCENTS for m in (None, 6) if (k, m) != ("excess clipped by task", 6)]
)
def test_the_gradient_is_that_of_the_objective(dpo_job, tmp_path, kind, micro):
    mixer, value_of = DESCENTS[kind]
    if kind == "excess clipped by task":
        dpo_job.train[1].columns["specialist_loss"] += 0.5  # the whole task is better than its specialist
    run = dpo_job.run(tmp_path, mixer, steps=1, batch_size=12, micro=micro)
    assert len(run.seen.batches) == (2 if micro else 1)
    wanted = gradient(dpo_job, dpo_job.start(), run.seen.batches, value_of)
    assert_same(run.seen.grads[0], wanted)


def test_clip_by_task_shuts_out_only_tasks_that_are_good_enough(dpo_job, tmp_path):
    """Task 0 is better than its specialist on average, though not on every row; task 1 the other way round."""
    near = log(2)
    for k, (low, high) in enumerate([(near + 0.3, near - 0.1), (near + 0.1, near - 0.3), (0.2, 0.2)]):
        column = dpo_job.train[k].columns["specialist_loss"]
        column[::2], column[1::2] = low, high
    mixer = Fixed((1 / 3, 1 / 3, 1 / 3), (1 / 3, 1 / 3, 1 / 3), descends_on="excess", clip="task")
    mixer.composition = "stratified"
    run = dpo_job.run(tmp_path, mixer, steps=1, batch_size=60)  # 20 rows a task: both signs in each
    seen = run.seen.batches[0]
    gap_B = seen.loss_B - seen.specialist_loss_B
    assert [bool(x > 0) for x in task_means(gap_B, seen.task_B)] == [False, True, True]
    assert all(gap_B[seen.task_B == k].min() < 0 < gap_B[seen.task_B == k].max() for k in (0, 1))
    open_B = seen.task_B > 0
    wanted = gradient(dpo_job, dpo_job.start(), run.seen.batches, lambda loss, task, spec: (loss * open_B).sum() / 60)
    assert_same(run.seen.grads[0], wanted)
    excess_K = run.mixing.signal.excess_K
    assert excess_K[0] == 0
    assert (excess_K[1:] > 0).all()


def test_excess_without_specialists_is_refused(dpo_job, tmp_path):
    for table in (*dpo_job.train, *dpo_job.validation):
        del table.columns["specialist_loss"]
    with pytest.raises(MixalignError, match="descends on excess loss, but the batches carry no specialist losses"):
        dpo_job.run(tmp_path, AMAR())
    dpo_job.run(tmp_path, steps=2)  # while plain loss needs none


@pytest.mark.parametrize(
    ("live", "lora"),
    [(frozen_copy, None), (frozen_copy, LoRA(r=2)), (adapter_off, LoRA(r=2))],
    ids=["frozen copy", "frozen copy, LoRA", "adapter off"],
)
def test_a_live_reference_gives_the_losses_of_the_cached_one(dpo_job, tmp_path, lora, live):
    dpo_job.lora = lora
    cached = dpo_job.run(tmp_path, AMAR(), steps=5, lr=3e-3, val_every=5)
    fresh = deepcopy(dpo_job)
    for table in (*fresh.train, *fresh.validation):
        del table.columns["reference_logp"]
    lively = fresh.run(tmp_path, AMAR(), steps=5, lr=3e-3, val_every=5, live=live)
    assert list(lively.seen.losses()) == list(cached.seen.losses())
    assert list(lively.seen.losses().values()) == pytest.approx(list(cached.seen.losses().values()), rel=1e-5)
    for quantity, value_K in cached.module.evaluation.items():
        torch.testing.assert_close(lively.module.evaluation[quantity], value_K, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dpo_job", "sft_job"])
def test_evaluation_is_the_mean_over_each_tasks_rows(name, request, tmp_path):
    job = request.getfixturevalue(name)
    run = job.run(tmp_path, steps=3, val_every=3, eval_batch_size=4)
    found = run.module.evaluation
    assert found["count"].tolist() == [7, 7, 7]
    for k, table in enumerate(job.validation):
        rows = np.arange(len(table))
        batch = collate(job.validation, np.full(len(rows), k), rows)
        with torch.no_grad():
            scores = job.objective(run.module.model, batch)
        gap_B = scores["loss"] - batch["specialist_loss_B"]
        wanted = {
            **scores,
            "gap": gap_B,
            "excess": gap_B.clamp_min(0),
            "specialist_loss": batch["specialist_loss_B"],
        }
        assert set(wanted) == set(found) - {"count"}
        for quantity, value_B in wanted.items():
            assert float(found[quantity][k]) == pytest.approx(float(value_B.mean()), rel=1e-5, abs=1e-6), quantity
    logged = {key: float(value) for key, value in run.trainer.callback_metrics.items()}
    assert logged["eval/worst_loss"] == pytest.approx(float(found["loss"].max()))
    assert logged["eval/mean_loss"] == pytest.approx(float(found["loss"].mean()))
    assert logged["eval/worst_accuracy"] == pytest.approx(float(found["accuracy"].min()))
    assert logged["eval/worst_excess"] == pytest.approx(float(found["excess"].max()))
    assert logged["eval/worst_gap"] == pytest.approx(float(found["gap"].max()))


def test_without_specialists_nothing_is_said_of_excess(dpo_job, tmp_path):
    for table in (*dpo_job.train, *dpo_job.validation):
        del table.columns["specialist_loss"]
    run = dpo_job.run(tmp_path, steps=1)
    assert set(run.module.evaluation) == {"count", "loss", "accuracy", "margin"}
    assert not any("excess" in key or "gap" in key for key in run.trainer.callback_metrics)
    assert run.mixing.signal.excess_K is None


def saved(folder) -> dict:
    return torch.load(folder / "kept.ckpt", map_location="cpu", weights_only=True)


@pytest.mark.parametrize("lora", [None, LoRA(r=2)], ids=["full", "lora"])
def test_a_checkpoint_holds_what_was_trained(dpo_job, tmp_path, lora):
    dpo_job.lora = lora
    keep = ModelCheckpoint(tmp_path, "kept", every_n_train_steps=3, save_top_k=1)
    run = dpo_job.run(tmp_path, steps=3, callbacks=[keep])
    trained = {n: p for n, p in run.module.named_parameters() if p.requires_grad}
    state = saved(tmp_path)["state_dict"]
    assert set(state) == set(trained)
    assert all(state[name].equal(p) for name, p in trained.items())
    if lora:
        assert all("lora_" in name for name in state)
    assert any(
        (state[f"model.{n}"] - p).abs().max() > 0
        for n, p in dpo_job.start().named_parameters()
        if f"model.{n}" in state
    )


@pytest.mark.filterwarnings("ignore:.*Please add the following callbacks.*")
def test_dropout_of_adapters_acts_in_supervised_training_and_is_the_same_when_it_goes_on(sft_job, tmp_path):
    keep = ModelCheckpoint(tmp_path, "at{step}", every_n_train_steps=2, save_top_k=-1, auto_insert_metric_name=False)
    runs = []
    for rate, more in ((0.0, {}), (0.5, {"callbacks": [keep]}), (0.5, {"resume": tmp_path / "at2.ckpt"})):
        sft_job.lora = LoRA(r=2, lora_dropout=rate)
        torch.manual_seed(len(runs))  # what else draws numbers does not matter
        runs.append(sft_job.run(tmp_path, steps=4, micro=6, **more).weights())
    without, whole, rest = runs
    assert any(not whole[name].equal(weight) for name, weight in without.items())
    assert all(rest[name].equal(weight) for name, weight in whole.items())


@pytest.mark.parametrize("objective", [DPO(), KTO()])
def test_dropout_is_off_where_scores_are_compared(dpo_job, objective):
    dpo_job.lora = LoRA(r=2, lora_dropout=0.5)
    module = AlignModule(dpo_job.start(), objective, dpo_job.tasks, Optimizer(1e-3))
    assert {part.p for part in module.model.modules() if isinstance(part, torch.nn.Dropout)} == {0.0}


@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*")
def test_a_model_in_evaluation_mode_is_trained_in_training_mode(dpo_job, tmp_path):
    run = dpo_job.run(tmp_path, steps=2, model=dpo_job.start().eval())
    assert all(part.training for part in run.module.model.modules())


def test_gradients_are_clipped_to_the_norm(dpo_job, tmp_path):
    norms = []

    class Norms(L.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            grads = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
            norms.extend([float(torch.stack(grads).norm())] if grads else [])

    tight = Optimizer(1e-2, warmup_steps=0, max_grad_norm=1e-3)
    run = dpo_job.run(tmp_path, steps=3, optimizer=tight, callbacks=[Norms()])
    before = [float(torch.stack([g.norm() for g in grads.values()]).norm()) for grads in run.seen.grads]
    assert min(before) > 1e-2
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-3)
    assert norms
    assert float(run.module.grad_norm) == pytest.approx(before[-1], rel=1e-5)  # what is logged is the norm before
    free = dpo_job.run(tmp_path, steps=1, optimizer=Optimizer(1e-2, warmup_steps=0, max_grad_norm=0.0))
    whole = float(torch.stack([g.norm() for g in free.seen.grads[0].values()]).norm())
    assert float(free.module.grad_norm) == pytest.approx(whole, rel=1e-5)


def test_the_learning_rate_warms_up_and_ends_at_zero(dpo_job, tmp_path):
    rates = []

    class Rates(ModelCheckpoint):  # a subclass by another name is a checkpoint as well
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    linear = Optimizer(1.0e-3, schedule="linear", warmup_steps=2)
    dpo_job.run(tmp_path, steps=6, optimizer=linear, callbacks=[Rates(tmp_path)])
    # steps 0 and 1 warm up; then down from the peak by a quarter a step
    assert rates == pytest.approx([0.5e-3, 1e-3, 1e-3, 0.75e-3, 0.5e-3, 0.25e-3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosin"}, "`optimizer.schedule` is 'cosin'. Did you mean `cosine`"),
        ({"warmup_steps": -1}, "`optimizer.warmup_steps` is -1"),
    ],
)
def test_bad_schedules_are_named(dpo_job, tmp_path, settings, message):
    with pytest.raises(MixalignError, match=message):
        dpo_job.run(tmp_path, steps=1, optimizer=Optimizer(1e-3, **{"warmup_steps": 0} | settings))


def test_each_task_trains_with_its_own_beta(dpo_job, tmp_path):
    """The gradient of a pair at the reference is proportional to beta."""
    dpo_job.objective = DPO().for_tasks([{"beta": 0.2}, {"beta": 0.4}, {"beta": 0.8}])
    run = dpo_job.run(tmp_path, Fixed((0.2, 0.3, 0.5)), steps=1, batch_size=12)
    betas = torch.tensor([0.2, 0.4, 0.8], dtype=torch.float64)

    plain = deepcopy(dpo_job)
    plain.objective = DPO(beta=1.0)
    alpha = torch.tensor([0.2, 0.3, 0.5])
    wanted = gradient(
        plain,
        plain.start(),
        run.seen.batches,
        lambda loss, task, spec: (alpha * betas.float() * task_means(loss, task)).sum(),
    )
    assert_same(run.seen.grads[0], wanted)

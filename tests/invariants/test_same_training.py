"""Trainings that must come out the same, because their mixtures or batches say the same thing.

Comparisons of batches cut in other ways run in float64, so that rounding does not hide a difference: Adam divides a
gradient by its own size, and turns float32 noise on a weight that hardly matters into a whole step.
"""

from math import log

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mixalign.losses.excess import clip_sample
from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.ama_s import AMAS
from mixalign.mixers.fixed import Temperature
from mixalign.mixers.group_dro import GroupDRO
from mixalign.models.load import LoRA
from mixalign.objectives.dpo import DPO
from mixalign.objectives.sft import SFT
from mixalign.training.module import AlignModule

UNIFORM = Temperature(float("inf"))
MIXERS = {
    "ama_r": AMAR(eta=0.5),
    "ama_r with a floor": AMAR(eta=0.5, floor=0.2),
    "ama_s": AMAS(eta=0.5),
    "ama_s with memory": AMAS(eta=0.5, absent="ema"),
    "group_dro": GroupDRO(eta=0.5),
    "temperature": Temperature(2.0),
}


def assert_equal(a, b) -> None:
    """The same draws, losses, mixtures and weights, bit for bit."""
    assert a.seen.losses() == b.seen.losses()
    assert all(x.equal(y) for x, y in zip(a.seen.alphas, b.seen.alphas, strict=True))
    other = b.weights()
    assert all(weight.equal(other[name]) for name, weight in a.weights().items())


def largest_difference(a, b) -> float:
    other = b.weights()
    return max(float((weight - other[name]).abs().max()) for name, weight in a.weights().items())


def test_ama_r_begins_as_the_plain_mean_of_clipped_excess(dpo_job, tmp_path):
    """With equal counts, weights of 1/K on task means are the mean over the batch."""
    run = dpo_job.run(tmp_path, AMAR(), steps=1)
    seen = run.seen.batches[0]
    assert seen.count_K.tolist() == [4, 4, 4]
    excess_B = clip_sample(seen.loss_B - seen.specialist_loss_B, "sample")
    torch.testing.assert_close(seen.loss, excess_B.mean())
    plain = dpo_job.run(tmp_path, UNIFORM, steps=1, descends_on="excess", clip="sample")
    assert plain.module.mix_loss_K is None
    for name, grad in run.seen.grads[0].items():
        torch.testing.assert_close(grad, plain.seen.grads[0][name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("objective", [DPO(beta=0.5), SFT()], ids=["dpo", "sft"])
def test_one_task_is_plain_training_whatever_the_mixer(small_job, tmp_path, name, objective):
    """On its loss and with specialists at 0, so that clipped excess is the loss."""
    job = small_job({"reverse": 30}, objective=objective)
    for table in (*job.train, *job.validation):
        table.columns["specialist_loss"][:] = 0
    plain = job.run(tmp_path, UNIFORM, steps=5, batch_size=6, composition="stratified")
    mixed = job.run(tmp_path, MIXERS[name], steps=5, batch_size=6, composition="stratified")
    assert [a.tolist() for a in mixed.seen.alphas] == [[1.0]] * 5
    assert mixed.seen.losses() == plain.seen.losses()
    assert largest_difference(plain, mixed) == 0


@pytest.mark.parametrize("clip", ["sample", "none"])
def test_ama_s_that_only_explores_is_uniform_sampling(dpo_job, tmp_path, clip):
    """With c = 1 the mixture is uniform at every step. The same draws then give the same training bit for bit, where
    excess and loss have the same gradient: without clipping, or with specialists whose loss is 0."""
    if clip == "sample":
        for table in (*dpo_job.train, *dpo_job.validation):
            table.columns["specialist_loss"][:] = 0
    uniform = dpo_job.run(tmp_path, UNIFORM, steps=8, composition="multinomial")
    explorer = dpo_job.run(tmp_path, AMAS(eta=0.1, c=1.0, clip=clip), steps=8)
    assert_equal(uniform, explorer)
    assert not explorer.mixing.state["log_q_K"].exp().allclose(explorer.mixing.mix.sample_K)  # EXP3 itself has moved


def test_mixers_that_never_move_are_uniform_training(dpo_job, tmp_path):
    """Group DRO with a step size of 0 descends on the mean of task means, which is the mean for equal counts."""
    uniform = dpo_job.run(tmp_path, UNIFORM, steps=5)
    still = dpo_job.run(tmp_path, GroupDRO(eta=0.0), steps=5)
    assert uniform.seen.losses().keys() == still.seen.losses().keys()
    assert largest_difference(uniform, still) < 1e-5


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_accumulated_micro_batches_are_one_batch(small_job, tmp_path, name, micro):
    """Batches of 8 whole, and as 8, 4 or 2 micro-batches: float64 weights, tasks in unequal numbers."""
    job = small_job(dtype=torch.float64)
    whole = job.run(tmp_path, MIXERS[name], steps=5, batch_size=8)
    parts = job.run(tmp_path, MIXERS[name], steps=5, batch_size=8, micro=micro)
    assert len(parts.seen.batches) == 5 * 8 // micro
    assert parts.seen.losses().keys() == whole.seen.losses().keys()
    assert parts.seen.losses() == pytest.approx(whole.seen.losses(), rel=1e-5)
    for a_K, b_K in zip(whole.seen.alphas, parts.seen.alphas, strict=True):
        torch.testing.assert_close(a_K, b_K, rtol=1e-6, atol=0)
    for whole_grads, part_grads in zip(whole.seen.grads, parts.seen.grads, strict=True):
        largest = max(float(g.abs().max()) for g in whole_grads.values())
        for key, grad in whole_grads.items():
            assert float((grad - part_grads[key]).abs().max()) < 1e-5 * largest, key
    assert largest_difference(whole, parts) < 1e-5
    assert all(k.count_K.sum() == 8 for k in parts.seen.batches)


@pytest.mark.parametrize("objective", [DPO(beta=0.5), SFT()], ids=["dpo", "sft"])
def test_tasks_in_another_order_are_the_same_training(small_job, tmp_path, objective):
    """A batch that holds every row of every task, so that the draw does not depend on the order of the tasks."""
    rows = {"helpful": 4, "reverse": 4, "compare": 4}
    forth = small_job(rows, objective=objective, dtype=torch.float64)
    back = small_job(dict(reversed(rows.items())), objective=objective, dtype=torch.float64)
    for mixer in (AMAR(eta=0.5), GroupDRO(eta=0.5), AMAR(eta=0.3, clip="task"), UNIFORM):
        a, b = forth.run(tmp_path, mixer, steps=5), back.run(tmp_path, mixer, steps=5)
        assert a.seen.losses().keys() == b.seen.losses().keys()
        for forth_K, back_K in zip(a.seen.alphas, b.seen.alphas, strict=True):
            torch.testing.assert_close(forth_K, back_K.flip(0), rtol=1e-6, atol=0)
        assert largest_difference(a, b) < 1e-5
        for quantity, value_K in a.module.evaluation.items():
            torch.testing.assert_close(value_K, b.module.evaluation[quantity].flip(0), rtol=1e-5, atol=1e-6)


def test_scores_are_the_losses_of_the_first_step(dpo_job, sft_job, tmp_path):
    """Log 2 for every pair, and the excess over a specialist is therefore max(log 2 - its loss, 0)."""
    run = dpo_job.run(tmp_path, AMAR(), steps=1)
    seen = run.seen.batches[0]
    torch.testing.assert_close(seen.loss_B, torch.full((12,), log(2)), rtol=1e-5, atol=1e-6)
    wanted_B = (log(2) - seen.specialist_loss_B).clamp_min(0)
    torch.testing.assert_close(seen.excess_B, wanted_B, rtol=1e-5, atol=1e-6)
    assert (wanted_B == 0).any()
    assert (wanted_B > 0).any()
    for k in range(3):
        wanted = float(wanted_B[seen.task_B == k].mean())
        assert float(run.mixing.signal.excess_K[k]) == pytest.approx(wanted, abs=1e-6)


def test_specialist_scores_are_the_losses_of_training_at_the_specialist(dpo_job, tmp_path):
    """Where the model is itself the specialist, its excess begins at 0."""
    from mixalign.frozen.score import score_rows
    from mixalign.objectives.frozen_losses import frozen_losses

    specialist = dpo_job.start()
    with torch.no_grad():
        for weight in specialist.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    for k, table in enumerate(dpo_job.train):
        logp_NS = score_rows(specialist, table, {}).align(table)
        table.attach("specialist_loss", frozen_losses(dpo_job.objective, table, logp_NS, k))
    run = dpo_job.run(tmp_path, AMAR(clip="none"), steps=1, model=specialist.train())
    seen = run.seen.batches[0]
    assert (seen.loss_B - log(2)).abs().max() > 0.05
    torch.testing.assert_close(seen.loss_B, seen.specialist_loss_B, rtol=1e-5, atol=1e-5)


class Estimating(AlignModule):
    """Reads how many steps there will be, after which Lightning drops the state of the training loader."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches > 0
        return super().configure_optimizers()


class Interrupted(Exception):
    pass


class StopAt(ModelCheckpoint):
    """Fails at the beginning of an optimizer step, as a machine might."""

    def __init__(self, step: int, folder) -> None:
        super().__init__(folder, "at{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)
        self.step = step

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            raise Interrupted


RESUMED = [
    (name, micro, lora, module)
    for name in MIXERS
    for micro, lora, module in [(None, None, AlignModule), (3, None, Estimating), (6, LoRA(r=2), Estimating)]
]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize(("name", "micro", "lora", "module"), RESUMED)
def test_a_resumed_training_is_the_uninterrupted_one(dpo_job, tmp_path, name, micro, lora, module):
    dpo_job.lora = lora
    settings = {"steps": 9, "micro": micro, "module_class": module, "val_every": 2}
    whole = dpo_job.run(tmp_path / "whole", MIXERS[name], **settings)
    with pytest.raises(Interrupted):
        dpo_job.run(tmp_path / "first", MIXERS[name], **settings, callbacks=[StopAt(6, tmp_path)])
    # the last two steps before the interruption are lost
    settings |= {"resume": tmp_path / "at4.ckpt", "callbacks": [StopAt(99, tmp_path)]}
    resumed = dpo_job.run(tmp_path / "second", MIXERS[name], **settings)
    parts = 1 if micro is None else 12 // micro
    assert len(resumed.seen.batches) == 5 * parts
    assert resumed.trainer.global_step == resumed.data.sampler.step == resumed.mixing.updates == 9
    for late, batch in zip(resumed.seen.batches, whole.seen.batches[4 * parts :], strict=True):
        assert late.row_id_B.equal(batch.row_id_B)
        assert late.draw_prob_B.equal(batch.draw_prob_B)
        assert late.loss_B.equal(batch.loss_B)
    for late_K, alpha_K in zip(resumed.seen.alphas, whole.seen.alphas[4:], strict=True):
        assert late_K.equal(alpha_K)
    assert largest_difference(whole, resumed) == 0
    assert whole.mixing.summary(whole.data.sampler) == resumed.mixing.summary(resumed.data.sampler)
    for quantity, value_K in whole.module.evaluation.items():
        assert value_K.equal(resumed.module.evaluation[quantity])


def test_a_checkpoint_of_other_tasks_is_refused(dpo_job, small_job, tmp_path):
    from mixalign.errors import MixalignError

    keep = ModelCheckpoint(tmp_path, "kept", every_n_train_steps=2, save_top_k=1)
    dpo_job.run(tmp_path / "first", UNIFORM, steps=2, callbacks=[keep])
    fewer = small_job({"helpful": 60, "compare": 50})
    with pytest.raises(
        MixalignError, match=r"`reverse` gone. It was written with helpful, reverse, compare.*data.tasks"
    ):
        fewer.run(tmp_path / "second", UNIFORM, steps=4, resume=tmp_path / "kept.ckpt")


def test_nothing_after_a_loss_that_is_not_finite_is_saved(dpo_job, tmp_path):
    from mixalign.errors import MixalignError

    class Spoil(ModelCheckpoint):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            if trainer.global_step == 3:
                batch["reference_logp_BS"] = batch["reference_logp_BS"] + float("nan")

    keep = Spoil(tmp_path, "at{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)
    with pytest.raises(MixalignError, match="not finite at step 4"):
        dpo_job.run(tmp_path, AMAR(), steps=6, callbacks=[keep])
    kept = sorted(tmp_path.glob("*.ckpt"))
    assert [p.name for p in kept] == ["at1.ckpt", "at2.ckpt", "at3.ckpt"]
    state = torch.load(kept[-1], weights_only=True)["state_dict"]
    assert all(weight.isfinite().all() for weight in state.values())

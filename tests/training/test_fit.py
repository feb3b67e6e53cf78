"""Steps, batches and validations of one training, and what is refused before it starts."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, Timer

from mixalign.errors import MixalignError
from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.ama_s import AMAS
from mixalign.training.fit import Fit


class Validations(L.Callback):
    """The optimizer steps at which validation ran."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_start(self, trainer, pl_module) -> None:
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize(
    ("steps", "every", "wanted"),
    [(6, 2, [2, 4, 6]), (7, 3, [3, 6, 7]), (5, 100, [5]), (1, 1, [1]), (4, 4, [4])],
)
@pytest.mark.parametrize("micro", [None, 4], ids=["whole", "accumulated"])
def test_the_last_step_is_always_validated(dpo_job, tmp_path, steps, every, wanted, micro):
    seen = Validations()
    run = dpo_job.run(tmp_path, steps=steps, micro=micro, val_every=every, callbacks=[seen])
    assert seen.steps == wanted
    assert run.trainer.global_step == steps
    assert run.trainer.accumulate_grad_batches == (3 if micro else 1)
    assert len(run.seen.batches) == steps * (3 if micro else 1)
    assert not run.module.evaluation["loss"].isnan().any()


@pytest.mark.filterwarnings("ignore:.*across ranks is zero.*")
def test_without_validation_rows_there_is_no_validation(dpo_job, tmp_path):
    dpo_job.validation = []
    seen = Validations()
    run = dpo_job.run(tmp_path, steps=3, val_every=1, callbacks=[seen])
    assert (seen.steps, run.module.evaluation, run.trainer.global_step) == ([], {}, 3)


def test_every_row_of_a_batch_is_a_draw_of_its_own(dpo_job, tmp_path):
    """Micro-batches share out the global batch: nothing is drawn twice and nothing is lost."""
    whole = dpo_job.run(tmp_path, AMAS(), steps=5, lr=0.0)
    parts = dpo_job.run(tmp_path, AMAS(), steps=5, lr=0.0, micro=2)
    assert len(parts.seen.batches) == 30
    assert {b.task_B.numel() for b in parts.seen.batches} == {2}
    assert sorted(whole.seen.losses()) == sorted(parts.seen.losses())
    assert whole.data.sampler.cursor_K.sum() == parts.data.sampler.cursor_K.sum() == 60


@pytest.mark.filterwarnings("ignore:.*Please add the following callbacks.*")
@pytest.mark.parametrize("saved", ["at a validation", "after a batch"])
@pytest.mark.parametrize("micro", [2, 4, 12])
def test_a_training_goes_on_with_other_micro_batches(dpo_job, tmp_path, micro, saved):
    """As it must when memory ran out, or when it has another number of processes. Saved at step 3 with three a step."""
    every = 3 if saved == "after a batch" else None
    names = {"filename": "at{step}", "auto_insert_metric_name": False}
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=every, save_top_k=-1, **names)
    whole = dpo_job.run(tmp_path, AMAR(), micro=4, lr=1e-3, val_every=3, callbacks=[keep])
    seen = Validations()
    rest = dpo_job.run(
        tmp_path, AMAR(), micro=micro, lr=1e-3, val_every=3, callbacks=[seen], resume=tmp_path / "at3.ckpt"
    )
    assert seen.steps == [6]
    assert rest.trainer.global_step == 6
    assert rest.seen.losses() == pytest.approx({k: v for k, v in whole.seen.losses().items() if k[0] >= 3}, rel=1e-5)
    torch.testing.assert_close(torch.stack(rest.seen.alphas), torch.stack(whole.seen.alphas[3:]), rtol=0, atol=1e-7)
    for name, weight in whole.weights().items():
        torch.testing.assert_close(rest.weights()[name], weight, rtol=0, atol=1e-5)


def test_tasks_outlast_their_rows(small_job, tmp_path):
    job = small_job({"helpful": 60, "compare": 3})
    run = job.run(tmp_path, steps=4, batch_size=12)
    assert run.data.sampler.epochs_K.tolist() == pytest.approx([24 / 60, 24 / 3])


@pytest.mark.parametrize("key", ["steps", "batch_size", "val_every"])
def test_numbers_below_one_are_refused(key):
    with pytest.raises(MixalignError, match=f"`{key}` is 0, but must be a whole number from 1 on"):
        Fit(**{"steps": 1, "batch_size": 1} | {key: 0})


def test_lightnings_own_sampler_is_refused():
    with pytest.raises(MixalignError, match=r"`trainer.use_distributed_sampler` .*must be false.*mixture sampler"):
        Fit(1, 1, trainer={"use_distributed_sampler": True})


@pytest.mark.parametrize(
    ("batch_size", "micro", "multiple"),
    [(12, 5, 5), (8, 16, 16), (7, 2, 2)],
)
def test_a_batch_that_cannot_be_divided_is_refused_with_numbers(dpo_job, tmp_path, batch_size, micro, multiple):
    wanted = f"`batch_size` is {batch_size}, which `micro_batch_size` {micro} on 1 .* multiple of {multiple}"
    with pytest.raises(MixalignError, match=wanted):
        dpo_job.run(tmp_path, batch_size=batch_size, micro=micro)


def test_trainer_options_reach_lightning(dpo_job, tmp_path):
    options = {"max_time": "00:12:00:00"}
    run = dpo_job.run(tmp_path, steps=1, trainer_options=options)
    assert [c._duration for c in run.trainer.callbacks if isinstance(c, Timer)] == [12 * 3600]
    assert run.trainer.default_root_dir == str(tmp_path)
    assert not run.trainer._accelerator_connector.use_distributed_sampler

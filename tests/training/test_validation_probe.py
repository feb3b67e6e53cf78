"""The loss on validation rows between steps: what it is, and that training does not notice."""

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mixalign.data.batches.collate import collate
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.mixers.aioli import Aioli
from mixalign.mixers.fixed import Temperature
from mixalign.models.load import LoRA
from mixalign.objectives.sft import SFT
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.callbacks.probe import task_rows
from mixalign.training.callbacks.probes import probes_for
from mixalign.training.callbacks.validation_probe import ValidationProbe

MIXER = Temperature(float("inf"))


class Kept(ValidationProbe):
    """Keeps what it measured at each step."""

    def __init__(self, *args, **settings) -> None:
        super().__init__(*args, **settings)
        self.found = []

    def measure(self, trainer, pl_module):
        found = super().measure(trainer, pl_module)
        self.found.append(found["probe_loss_K"])
        return found


def measured(job, folder, steps=2, **settings):
    """Losses after each step (steps, K), and the training."""
    options = {name: settings.pop(name) for name in ("seed", "validation_rows") if name in settings}
    probe = Kept(MIXER, **options)
    run = job.run(folder, MIXER, steps=steps, callbacks=[probe], **settings)
    return torch.stack(probe.found), run


def test_with_all_rows_it_is_the_validation_loss(small_job, tmp_path):
    """Dropout is off in both."""
    job = small_job(objective=SFT(), dtype=torch.float64, lora=LoRA(r=2, lora_dropout=0.5))
    loss_NK, run = measured(job, tmp_path, val_every=2, eval_batch_size=3)
    assert loss_NK.dtype == torch.float64
    torch.testing.assert_close(loss_NK[1], run.module.evaluation["loss"].cpu(), rtol=0, atol=1e-12)
    assert not loss_NK[0].equal(loss_NK[1])


def test_the_sample_is_the_same_at_every_step(sft_job, tmp_path):
    """A model that does not move has the same loss on it, to the bit; it is the mean over four rows of each task."""
    still, run = measured(sft_job, tmp_path, lr=0.0, validation_rows=4, seed=1)
    assert still[0].equal(still[1])
    other, _ = measured(sft_job, tmp_path, steps=1, lr=0.0, validation_rows=4, seed=2)
    assert not still[0].equal(other[0])
    with torch.no_grad():
        batches = task_rows(sft_job.validation, 4, (1,), collate)
        wanted = torch.stack([sft_job.objective(run.module.model, batch)["loss"].double().mean() for batch in batches])
    torch.testing.assert_close(still[0], wanted, rtol=1e-6, atol=0)


def test_it_measures_under_the_precision_of_the_training(sft_job, tmp_path):
    rounded, run = measured(sft_job, tmp_path, steps=1, lr=0.0, trainer_options={"precision": "bf16-mixed"})
    exact, _ = measured(sft_job, tmp_path, steps=1, lr=0.0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        batches = task_rows(sft_job.validation, 64, (0,), collate)
        wanted = torch.stack([sft_job.objective(run.module.model, batch)["loss"].double().mean() for batch in batches])
    torch.testing.assert_close(rounded[0], wanted, rtol=1e-6, atol=0)
    assert float((rounded[0] - exact[0]).abs().max()) > 1e-4


@pytest.mark.parametrize(("without", "named"), [([0, 1, 2], "`helpful`, `reverse`, `compare`"), ([1], "`reverse`")])
def test_tasks_without_validation_rows_are_refused(dpo_job, tmp_path, without, named):
    for task in without:
        dpo_job.validation[task] = TaskDataset.from_rows(dpo_job.tasks[task], [], 2)
    if len(without) == 3:
        dpo_job.validation = []
    with pytest.raises(MixalignError, match=f"reads validation losses between steps, but task {named} has no valid"):
        measured(dpo_job, tmp_path, steps=1)


@pytest.mark.parametrize("rows", [0, 2.5])
def test_a_bad_number_of_rows_is_named(dpo_job, tmp_path, rows):
    with pytest.raises(MixalignError, match=rf"`probe\.validation_rows` is {rows}, but"):
        measured(dpo_job, tmp_path, steps=1, validation_rows=rows)


class Probed(Mixing):
    """A mixer's probes and its Mixing in the order in which a run has them."""

    def __init__(self, mixer, *args) -> None:
        super().__init__(mixer, *args)
        self.probes = probes_for(mixer, validation_rows=4, rows=3)

    def on_fit_start(self, trainer, pl_module) -> None:
        for probe in self.probes:
            probe.on_fit_start(trainer, pl_module)
        super().on_fit_start(trainer, pl_module)

    def on_train_batch_end(self, *args) -> None:
        for probe in self.probes:
            probe.on_train_batch_end(*args)
        super().on_train_batch_end(*args)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_aioli_resumes_in_the_middle_of_a_burst(dpo_job, tmp_path):
    """One phase from step 1 to 13, in bursts of 2 steps; the checkpoint is that of step 6."""
    mixer = Aioli(rounds=2, steps=2, every=14, warmup=1).for_run(dpo_job.tasks, 16)

    def run(**options):
        keep = {"every_n_train_steps": 6, "save_top_k": -1, "auto_insert_metric_name": False}
        keeper = ModelCheckpoint(tmp_path, "at{step}", **keep)
        return dpo_job.run(tmp_path, mixer, steps=16, mixing_class=Probed, callbacks=[keeper], **options)

    whole = run()
    assert whole.mixing.state["learned"] == 1
    samples = np.array([p.tolist() for p in whole.seen.samples])
    assert np.ptp(samples[-1]) > 1e-3
    resumed = run(resume=tmp_path / "at6.ckpt")
    assert np.array_equal(samples[6:], [p.tolist() for p in resumed.seen.samples])
    assert all(value.equal(resumed.mixing.state[name]) for name, value in whole.mixing.state.items())
    assert all(weight.equal(resumed.weights()[name]) for name, weight in whole.weights().items())

"""A trial step: what it measures, that nothing is left of it, and that processes make it together."""

from copy import deepcopy
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn

from mixalign.data.batches.collate import collate
from mixalign.errors import MixalignError
from mixalign.mixers.fixed import Temperature
from mixalign.models.load import LoRA
from mixalign.training.callbacks.probe import task_rows
from mixalign.training.callbacks.trial_step import TrialStep
from mixalign.training.callbacks.validation_probe import ValidationProbe
from mixalign.training.optimizer import Optimizer

MIXER = Temperature(float("inf"))
SETTINGS = Optimizer(1e-2, weight_decay=0.1, schedule="linear", warmup_steps=0, max_grad_norm=0.5)


class Keep(L.Callback):
    """Copies of the model and the optimizer after every step, and what was probed there."""

    def __init__(self) -> None:
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        if pl_module.probed:
            (optimizer,) = trainer.optimizers
            kept = SimpleNamespace(step=trainer.global_step, probed=dict(pl_module.probed))
            pl_module.probed.clear()
            kept.model, kept.optimizer = deepcopy(pl_module.model), deepcopy(optimizer.state_dict())
            self.steps.append(kept)


def gains_by_hand(job, kept, rows, seed):
    """Gains of AdamW's own steps on copies of the model."""
    out = []
    for batch in task_rows(job.train, rows, (seed, kept.step), collate):
        model = deepcopy(kept.model)
        weights = [w for w in model.parameters() if w.requires_grad]
        optimizer = torch.optim.AdamW(weights)
        optimizer.load_state_dict(deepcopy(kept.optimizer))
        before = job.objective(model, batch)["loss"].mean()
        before.backward()
        nn.utils.clip_grad_norm_(weights, SETTINGS.max_grad_norm)
        optimizer.step()
        with torch.no_grad():
            after = job.objective(model, batch)["loss"].mean()
        out.append(float((before.detach() - after) / before.detach()))
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize(
    ("lora", "micro"), [(None, None), (None, 2), (LoRA(r=2), None)], ids=["full", "micro-batches", "lora"]
)
def test_gains_are_those_of_the_optimizers_own_steps(small_job, tmp_path, lora, micro):
    job, keep = small_job(dtype=torch.float64, lora=lora), Keep()
    job.run(tmp_path, MIXER, steps=3, optimizer=SETTINGS, micro=micro, callbacks=[TrialStep(MIXER, 7, rows=5), keep])
    assert [kept.step for kept in keep.steps] == [1, 2, 3]
    for kept in keep.steps[:2]:
        wanted = gains_by_hand(job, kept, rows=5, seed=7)
        torch.testing.assert_close(kept.probed["gain_K"], wanted, rtol=0, atol=1e-6)  # losses are float32
        assert float(wanted.abs().min()) > 1e-3
    assert keep.steps[2].probed["gain_K"].tolist() == [0, 0, 0], "the schedule's last learning rate is 0"


def test_tasks_with_fewer_rows_give_all_of_them(small_job, tmp_path):
    job, keep = small_job({"helpful": 3, "reverse": 40, "compare": 50}, dtype=torch.float64), Keep()
    job.run(tmp_path, MIXER, steps=1, optimizer=SETTINGS, callbacks=[TrialStep(MIXER, rows=8), keep])
    wanted = gains_by_hand(job, keep.steps[0], rows=8, seed=0)
    torch.testing.assert_close(keep.steps[0].probed["gain_K"], wanted, rtol=0, atol=1e-6)


def state_of(trainer, module):
    """All that a probe could change, copied, and the fields of gradients themselves."""
    (optimizer,) = trainer.optimizers
    weights = list(module.model.parameters())
    return {
        "weights": [w.detach().clone() for w in weights],
        "grads": [None if w.grad is None else w.grad.clone() for w in weights],
        "identity": [id(w.grad) for w in weights],
        "optimizer": deepcopy(optimizer.state_dict()["state"]),
        "random": torch.get_rng_state(),
        "modes": [part.training for part in module.modules()],
        "trained": [w.requires_grad for w in weights],
    }


class Watched(L.Callback):
    """Makes the measurements of two probes, and compares all that there is before and after."""

    def __init__(self) -> None:
        self.probes, self.gains = [TrialStep(MIXER, rows=4), ValidationProbe(MIXER)], []

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        for probe in self.probes:
            before = state_of(trainer, pl_module)
            found = probe.measure(trainer, pl_module)
            torch.testing.assert_close(state_of(trainer, pl_module), before, rtol=0, atol=0)
            self.gains += [found["gain_K"]] if "gain_K" in found else []


@pytest.mark.parametrize("lora", [None, LoRA(r=2, lora_dropout=0.3)], ids=["full", "lora with dropout"])
def test_training_is_the_same_to_the_bit(sft_job, tmp_path, lora):
    sft_job.lora, watched = lora, Watched()
    runs = []
    for callbacks in ([], [watched]):
        L.seed_everything(0, verbose=False)
        runs.append(sft_job.run(tmp_path, MIXER, steps=3, callbacks=callbacks))
        runs[-1].random = torch.get_rng_state()
    plain, probed = runs
    assert all(weight.equal(probed.weights()[name]) for name, weight in plain.weights().items())
    assert plain.random.equal(probed.random)
    assert len(watched.gains) == 3
    assert all(float(gain_K.abs().min()) > 0 for gain_K in watched.gains)


def test_an_error_leaves_the_weights_as_they_were(dpo_job, tmp_path):
    class Broken(TrialStep):
        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            before = state_of(trainer, pl_module)
            whole, calls = pl_module.objective, []

            def objective(model, batch):
                calls.append(model)
                return whole(model, batch) if len(calls) < 4 else 1 / 0  # after the second task's step

            pl_module.objective = objective
            with pytest.raises(ZeroDivisionError):
                self.measure(trainer, pl_module)
            pl_module.objective = whole
            torch.testing.assert_close(state_of(trainer, pl_module), before, rtol=0, atol=0)

    assert dpo_job.run(tmp_path, MIXER, steps=1, callbacks=[Broken(MIXER)]).trainer.global_step == 1


@pytest.mark.parametrize("rows", [0, "many"])
def test_a_bad_number_of_rows_is_named(dpo_job, tmp_path, rows):
    with pytest.raises(MixalignError, match=rf"`probe\.rows` is {rows!r}, but"):
        dpo_job.run(tmp_path, MIXER, steps=1, callbacks=[TrialStep(MIXER, rows=rows)])


class Saved(L.Callback):
    """Writes what both probes measured, one file a process."""

    def __init__(self, folder, world) -> None:
        self.folder, self.world = folder, world
        self.probes = [TrialStep(MIXER, rows=5), ValidationProbe(MIXER, validation_rows=4)]

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        assert trainer.world_size == self.world
        found = {name: v for probe in self.probes for name, v in probe.measure(trainer, pl_module).items()}
        torch.save(found, self.folder / f"{trainer.global_step} {trainer.global_rank}of{self.world}")


@pytest.fixture
def one_thread():
    """A forked process would wait for ever for threads that only its parent has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:.*sync_dist=True.*")
@pytest.mark.skipif(torch.cuda.is_available(), reason="Lightning does not fork processes that may have used a GPU")
def test_two_processes_measure_what_one_measures(small_job, tmp_path, one_thread):
    """The first task has one row, which only one of them gets."""
    job = small_job({"helpful": 1, "reverse": 40, "compare": 50}, validation_rows=3, dtype=torch.float64)
    for world in (1, 2):
        options = {"devices": world, "strategy": "ddp_fork" if world > 1 else "auto"}
        job.run(
            tmp_path, MIXER, steps=2, optimizer=SETTINGS, callbacks=[Saved(tmp_path, world)], trainer_options=options
        )
    for step in (1, 2):
        one, first, second = (torch.load(tmp_path / f"{step} {name}") for name in ("0of1", "0of2", "1of2"))
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        torch.testing.assert_close(first, one, rtol=1e-6, atol=1e-8)

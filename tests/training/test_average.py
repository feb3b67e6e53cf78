"""The mean of the last weights: of which steps, how exactly, and the same after an interruption."""

from contextlib import nullcontext

import lightning as L
import pytest
import torch

from mixalign.mixers.ama_s import AMAS
from mixalign.models.load import LoRA
from mixalign.training.average_share import first_step, share_of
from mixalign.training.callbacks.average import AverageWeights
from mixalign.training.callbacks.save_newest import SaveNewest


class Iterates(L.Callback):
    """Keeps the trained weights after each step, and may end the training behind one."""

    def __init__(self, cut: int | None = None) -> None:
        self.cut, self.weights = cut, {}

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        kept = {name: p.detach().clone() for name, p in pl_module.named_parameters() if p.requires_grad}
        self.weights[trainer.global_step] = kept

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step == self.cut:
            raise KeyError("power cut")


@pytest.fixture
def train(dpo_job):
    """Trains for 10 steps, saving each, or to the power cut after step `cut`; gives the mean, the iterates, the run."""

    def go(folder, share=0.3, cut=None, resume=None, steps=10, **more):
        average, seen, run = AverageWeights(share), Iterates(cut), None
        callbacks = [average, seen, SaveNewest(folder, 1)]
        with pytest.raises(KeyError, match="power cut") if cut else nullcontext():
            run = dpo_job.run(folder, AMAS(), steps=steps, callbacks=callbacks, resume=resume, **more)
        return average, seen.weights, run

    return go


@pytest.mark.parametrize(
    ("share", "steps", "first"), [(0.3, 150, 106), (0.3, 10, 8), (1, 4, 1), (0.01, 20, 20), (0.3, 1, 1)]
)
def test_the_mean_is_of_the_last_share_of_the_steps_and_of_one_at_least(share, steps, first):
    assert first_step(share, steps) == first


def test_the_share_is_three_tenths_where_nothing_else_is_said():
    assert share_of("averaged", None) == 0.3
    assert share_of("averaged", 0.5) == share_of("best", 0.5) == 0.5
    assert share_of("best", None) is share_of("last", None) is None


@pytest.mark.parametrize("case", ["full", "lora", "accumulated"])
def test_it_is_the_plain_mean_of_the_iterates(dpo_job, train, tmp_path, case):
    dpo_job.lora = LoRA(r=2) if case == "lora" else None
    average, iterates, run = train(tmp_path, micro=4 if case == "accumulated" else None)
    assert (average.begun, average.count) == (8, 3)
    assert {*range(1, 11)} <= iterates.keys()
    trained = {name for name, p in run.module.named_parameters() if p.requires_grad}
    mean = average.state_dict()["mean"]
    assert mean.keys() == trained
    for name, value in mean.items():
        wanted = sum(iterates[step][name].double() for step in (8, 9, 10)) / 3
        torch.testing.assert_close(value.double(), wanted, rtol=0, atol=1e-6)
        assert not torch.equal(value, iterates[10][name]) or not value.any()


def test_weights_in_16_bits_have_a_mean_in_32():
    """Three numbers whose mean bfloat16 has not."""
    module, average = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16), AverageWeights(1)
    for value in (1.0, 1.0078125, 1.0078125):
        with torch.no_grad():
            module.weight.fill_(value)
        average._add(module)
    mean = average.state_dict()["mean"]["weight"]
    assert mean.dtype == torch.float32
    assert float(mean) == pytest.approx(1 + 2 / 3 * 0.0078125, abs=1e-7)


@pytest.mark.parametrize("cut", [5, 8, 9])
def test_an_interrupted_training_has_the_same_mean_to_the_bit(train, tmp_path, cut):
    """Before the mean begins, behind its first step, and in the middle."""
    calm, _, _ = train(tmp_path / "calm")
    train(tmp_path / "cut", cut=cut)
    again, _, _ = train(tmp_path / "cut", resume=tmp_path / "cut" / "last.ckpt")
    assert (again.begun, again.count) == (calm.begun, calm.count) == (8, 3)
    for name, value in calm.state_dict()["mean"].items():
        assert torch.equal(again.state_dict()["mean"][name], value), name


def test_a_training_that_goes_on_to_more_steps_begins_its_mean_anew(train, tmp_path):
    train(tmp_path, steps=4)
    longer, iterates, _ = train(tmp_path, resume=tmp_path / "last.ckpt", steps=10)
    assert (longer.begun, longer.count) == (8, 3)
    for name, value in longer.state_dict()["mean"].items():
        wanted = sum(iterates[step][name].double() for step in (8, 9, 10)) / 3
        torch.testing.assert_close(value.double(), wanted, rtol=0, atol=1e-6)


def test_a_mean_that_begins_late_says_so(train, dpo_job, tmp_path, caplog):
    with pytest.raises(KeyError):
        dpo_job.run(tmp_path / "cut", AMAS(), steps=10, callbacks=[Iterates(8), SaveNewest(tmp_path / "cut", 1)])
    late, _, _ = train(tmp_path / "cut", resume=tmp_path / "cut" / "last.ckpt")
    assert (late.begun, late.count) == (9, 2)
    assert "The mean of the weights begins at step 9, not at step 8: the checkpoint is of step 8" in caplog.text


def test_swapped_twice_the_weights_are_as_before(train, tmp_path):
    average, iterates, run = train(tmp_path)
    mean = {name: value.clone() for name, value in average.state_dict()["mean"].items()}
    average.swap(run.module)
    weights = dict(run.module.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in mean.items())
    average.swap(run.module)
    assert all(torch.equal(weights[name], value) for name, value in iterates[10].items())

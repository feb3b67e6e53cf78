"""A loss that is not finite: the weights never take it, and the run ends, skips it, or leaves the task out."""

import json
from functools import partial

import pytest
import torch
from torch import nn

from mixalign.errors import MixalignError
from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.ama_s import AMAS
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.module import AlignModule


class Poisoned(AlignModule):
    """Gives one task an infinite loss from the third step on."""

    def scores(self, batch):
        scores = super().scores(batch)
        if self.trainer.global_step >= 2 and self.training:
            bad_B = batch["task_B"] == self.tasks.index("reverse")
            scores["loss"] = torch.where(bad_B, scores["loss"] * torch.inf, scores["loss"])
        return scores


def run(job, folder, mixer, on_nan, steps=6):
    policy, history = partial(Mixing, on_nan=on_nan), folder / "mix.jsonl"
    return job.run(folder, mixer, steps=steps, module_class=Poisoned, mixing_class=policy, history=history)


def test_raise_names_the_task_and_keeps_the_weights(dpo_job, tmp_path):
    two = dpo_job.run(tmp_path / "two", AMAR(), steps=2, lr=1e-3)
    seen = {}

    class Keep(Mixing):
        def _update(self, trainer, pl_module):
            seen["weights"] = {n: p.detach().clone() for n, p in pl_module.model.named_parameters()}
            super()._update(trainer, pl_module)

    with pytest.raises(MixalignError, match=r"loss of task `reverse` is not finite at step 3.*did not take that step"):
        dpo_job.run(tmp_path / "six", AMAR(), steps=6, lr=1e-3, module_class=Poisoned, mixing_class=Keep)
    for name, weight in two.weights().items():
        assert torch.equal(weight, seen["weights"][name]), name


@pytest.mark.parametrize("mixer", [AMAR(), AMAS()], ids=["ama_r", "ama_s"])
def test_skip_goes_on_and_leaves_weights_and_mixture_alone(dpo_job, tmp_path, mixer, caplog):
    job = run(dpo_job, tmp_path, mixer, "skip")
    assert job.mixing.updates == 6
    assert all(weight.isfinite().all() for weight in job.weights().values())
    assert all(alpha.isfinite().all() for alpha in job.seen.alphas)
    bad = [any(b.step == step + 1 and (b.task_B == 1).any() for b in job.seen.batches) for step in range(2, 6)]
    assert any(bad)
    for number, spoilt in enumerate(bad, 2):
        if spoilt:
            assert torch.equal(job.seen.alphas[number], job.seen.alphas[number - 1])
    assert "The step is skipped" in caplog.text
    history = (tmp_path / "mix.jsonl").read_text()
    lines = [
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")) for line in history.splitlines()
    ]
    assert [line["task_loss"][1] is None for line in lines[2:]] == bad


@pytest.mark.parametrize("mixer", [AMAR(), AMAS()], ids=["ama_r", "ama_s"])
def test_quarantine_takes_the_task_out_of_the_mixture_and_survives_a_checkpoint(dpo_job, tmp_path, mixer):
    job = run(dpo_job, tmp_path, mixer, "quarantine", steps=8)
    assert job.mixing.bad_tasks.banned_K.tolist() == [False, True, False]
    assert float(job.mixing.mix.alpha_K[1]) == 0
    assert float(job.mixing.mix.sample_K.sum()) == pytest.approx(1)
    assert all(weight.isfinite().all() for weight in job.weights().values())
    again = Mixing(mixer, job.mixing.tasks, job.mixing.rows_K)
    again.load_state_dict(job.mixing.state_dict())
    assert again.bad_tasks.banned_K.tolist() == [False, True, False]


def test_a_policy_that_nobody_knows_is_refused():
    with pytest.raises(MixalignError, match=r"`on_nan` is 'skp'. Did you mean `skip`"):
        Mixing(AMAR(), ["a"], [1], on_nan="skp")


def test_a_step_that_is_not_finite_changes_nothing_in_the_optimizer():
    """What `found_inf` does on this device: weights, moments and the count of steps stay."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], 0.1, fused=True)
    for gradient in (1.0, float("nan"), 1.0):
        weight.grad = torch.full((3,), gradient)
        optimizer.found_inf = (~weight.grad.norm().isfinite()).float()
        optimizer.step()
    wanted = nn.Parameter(torch.ones(3))
    reference = torch.optim.AdamW([wanted], 0.1, fused=True)
    for _ in range(2):
        wanted.grad = torch.ones(3)
        reference.step()
    assert torch.equal(weight, wanted)

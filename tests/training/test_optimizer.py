"""AdamW as it is built, and learning rates by hand and as transformers has them."""

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from mixalign.training.optimizer import Optimizer


def rates(settings: Optimizer, steps: int) -> list[float]:
    """The learning rate of each step."""
    adamw, schedule = settings.build([nn.Parameter(torch.zeros(1))], steps)
    out = []
    for _ in range(steps):
        out.append(adamw.param_groups[0]["lr"])
        adamw.step()
        schedule.step()
    return out


@pytest.mark.parametrize(
    ("settings", "name", "options"),
    [
        ({"schedule": "linear"}, "linear", {}),
        ({"schedule": "cosine"}, "cosine", {}),
        ({"schedule": "cosine", "min_lr": 1e-3}, "cosine_with_min_lr", {"min_lr": 1e-3}),
        ({"schedule": "wsd", "decay_steps": 5}, "warmup_stable_decay", {"num_decay_steps": 5}),
        (
            {"schedule": "wsd", "decay_steps": 8, "min_lr": 2e-3},
            "warmup_stable_decay",
            {"num_decay_steps": 8, "min_lr_ratio": 0.2},
        ),
    ],
)
def test_schedules_are_those_of_transformers(settings, name, options):
    adamw = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], 1e-2)
    theirs = get_scheduler(name, adamw, 0, 20, scheduler_specific_kwargs=options)
    wanted = []
    for _ in range(20):
        wanted.append(adamw.param_groups[0]["lr"])
        adamw.step()
        theirs.step()
    assert rates(Optimizer(1e-2, warmup_steps=0, **settings), 20) == pytest.approx(wanted)


def test_a_wsd_by_hand():
    """Two steps up, four at the peak, and the last four along half a cosine: 1, .854, .5, .146 of the peak."""
    got = rates(Optimizer(1.0, schedule="wsd", warmup_steps=0.2, decay_steps=4), 10)
    assert got == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.8536, 0.5, 0.1464], abs=1e-4)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
def test_no_rate_behind_the_warm_up_is_below_the_floor(schedule):
    got = rates(Optimizer(1.0, schedule=schedule, warmup_steps=3, min_lr=0.25), 30)
    assert got[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert min(got[3:]) >= 0.25
    assert got[-1] < 0.5


def test_a_decay_that_does_not_fit_begins_behind_the_warm_up():
    got = rates(Optimizer(1.0, schedule="wsd", warmup_steps=4, decay_steps=100), 8)
    assert got == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.8536, 0.5, 0.1464], abs=1e-4)


@pytest.mark.parametrize("eps", [1e-8, 1.0])
def test_eps_is_that_of_adamw(eps):
    """The first step is lr * g / (|g| + eps): with a gradient of 1 and eps 1 it is half of lr."""
    weight = nn.Parameter(torch.zeros(1))
    adamw, _ = Optimizer(0.5, eps=eps, warmup_steps=0).build([weight], 1)
    weight.grad = torch.ones(1)
    adamw.step()
    assert float(weight.detach()) == pytest.approx(-0.5 / (1 + eps))


def test_a_warm_up_below_one_is_a_share():
    assert Optimizer(1.0, warmup_steps=0.1).warm_steps(50) == 5
    assert Optimizer(1.0, warmup_steps=10).warm_steps(50) == 10
    assert rates(Optimizer(1.0, warmup_steps=0.1), 12)[1:] == [1.0] * 11, "a share of 12 steps is not all of them"


@pytest.mark.parametrize("warmup", [0.1, 0.25, 0.37, 2.5])
@pytest.mark.parametrize("schedule", ["constant", "linear", "wsd"])
def test_no_rate_is_above_the_peak(schedule, warmup):
    """Shares that are no whole number of steps among them: 0.1 of 12 steps once gave 1.67 times the peak."""
    assert max(rates(Optimizer(1.0, schedule=schedule, warmup_steps=warmup), 12)) <= 1

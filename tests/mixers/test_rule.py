"""What a rule may leave unsaid: the defaults of `Rule`, also for a class that does not inherit from it."""

from copy import deepcopy
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.ama_s import AMAS
from mixalign.mixers.base import Mix, Mixer, MixSignal, Rule
from mixalign.mixers.doge import DoGE
from mixalign.mixers.doremi import DoReMi
from mixalign.mixers.fixed import Fixed, Temperature
from mixalign.mixers.ideal import Ideal
from mixalign.mixers.outside import as_rule
from mixalign.mixers.random_mixture import RandomMixture
from mixalign.mixers.schedule import Schedule
from mixalign.mixers.sec import SEC
from mixalign.mixers.wrapped import Wrapped, wrap
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.callbacks.probes import probes_for

DEFAULTS = {
    "cadence": "step",
    "static": False,
    "final": False,
    "excess_over": "specialists",
    "baseline": "uniform",
    "max_epochs": inf,
}


@dataclass
class Plain:
    """Satisfies `Mixer`, and inherits from nothing."""

    calls: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({"loss_K"})
    composition: ClassVar[str] = "stratified"
    descends_on: ClassVar[str] = "loss"
    clip: ClassVar[str] = "none"

    def init(self, rows_K):
        sample_K = torch.full((len(rows_K),), 1 / len(rows_K), dtype=torch.float64)
        return Mix(sample_K), {"sample_K": sample_K}

    def update(self, signal, state):
        self.calls += 1
        return Mix(state["sample_K"]), state


@dataclass
class Talkative(Plain):
    """The same, with some hooks of its own and a setting."""

    rounds: int = 3
    steps: int = 0

    cadence: ClassVar[str] = "round"
    static: ClassVar[bool] = True
    excess_over: ClassVar[str] = "baseline"

    def for_run(self, tasks, steps):
        return replace(self, steps=steps)

    def asks(self, step):
        return step == self.steps

    def caution(self, num_tasks, batch_size):
        return f"{num_tasks} tasks in {batch_size} rows"


def hooks(rule):
    return {name: getattr(rule, name) for name in DEFAULTS}


@pytest.mark.parametrize("mixer", [AMAS(), as_rule(Plain())], ids=["inherits", "outside"])
def test_defaults(mixer):
    assert hooks(mixer) == DEFAULTS
    assert mixer.for_run(["a"], 10) == mixer
    assert all(mixer.asks(step) for step in range(5))
    assert as_rule(Plain()).caution(3, 2) is None


def test_a_rule_stays_what_it_is():
    rule = AMAS()
    assert as_rule(rule) is rule
    assert isinstance(rule, Rule)
    assert isinstance(rule, Mixer)
    assert isinstance(Plain(), Mixer)
    assert not isinstance(object(), Mixer)


def test_a_class_from_outside_keeps_what_it_says():
    mine = Talkative()
    rule = as_rule(mine)
    said = {"cadence": "round", "static": True, "excess_over": "baseline"}
    assert hooks(rule) == DEFAULTS | said
    assert rule.caution(3, 2) == "3 tasks in 2 rows"
    assert (rule.needs, rule.clip, rule.rounds) == (mine.needs, mine.clip, 3)
    told = rule.for_run(["a"], 7)
    assert [step for step in range(10) if told.asks(step)] == [7]
    assert hooks(told) == hooks(rule)  # the defaults are there still
    with pytest.raises(AttributeError, match="nonsense"):
        _ = rule.nonsense


def test_a_class_from_outside_is_called_itself():
    mine = Plain()
    rule = as_rule(mine)
    _, state = rule.init(torch.ones(3))
    rule.update(MixSignal(0, torch.ones(3)), state)
    assert mine.calls == 1
    assert hooks(deepcopy(rule)) == DEFAULTS


def test_callbacks_take_a_class_from_outside():
    mixing = Mixing(Plain(), ["a", "b"], [1, 2])
    assert mixing.mixer.caution(2, 2) is None

    class Probed(Plain):
        needs: ClassVar[frozenset[str]] = frozenset({"gain_K"})

    (probe,) = probes_for(Probed())
    assert probe.mixer.asks(3)


def test_what_is_wrapped_is_forwarded():
    assert hooks(wrap(DoReMi(baseline="proportional"), {"floor": 0.1})) == DEFAULTS | {
        "final": True,
        "excess_over": "baseline",
        "baseline": "proportional",
    }
    assert hooks(Wrapped(DoGE(final=False), max_epochs=2)) == DEFAULTS | {"cadence": "interval", "max_epochs": 2}
    assert Wrapped(as_rule(Plain()), floor=0.1).for_run(["a"], 3).asks(1)
    assert Wrapped(AMAS(eta=9, c=0.1), every=4).caution(3, 2) == AMAS(eta=9, c=0.1).caution(3, 8)


def test_an_outside_rule_that_is_wrapped_asks_once_in_an_interval():
    wrapped = Wrapped(as_rule(Plain()), every=3)
    assert [step for step in range(1, 10) if wrapped.asks(step)] == [3, 6, 9]


@pytest.mark.parametrize("rule", [DoGE(), SEC(signal="gain")], ids=["doge", "sec"])
def test_a_rule_with_steps_of_its_own_has_no_interval(rule):
    assert rule.cadence == "interval"
    with pytest.raises(
        MixalignError, match=rf"`mixer.wrap.every` is 2, but {type(rule).__name__} has steps of its own"
    ):
        Wrapped(rule, every=2)


def test_a_rule_of_rounds_says_so():
    assert Ideal().cadence == "round"


PHASES = [{"until": 1, "weights": "uniform"}, {"weights": [1, 2, 3]}]


@pytest.mark.parametrize(
    "rule",
    [Temperature(2.0), Fixed([1, 2, 3]), RandomMixture(), Schedule(PHASES), Wrapped(Fixed("uniform"), floor=0.1)],
    ids=["temperature", "fixed", "random", "schedule", "wrapped"],
)
def test_what_is_measured_does_not_move_a_static_rule(rule):
    """Calendars may; for the others tests/mixers/test_contract.py says that they do move."""
    assert rule.static

    def path(loss_K):
        mix, state = rule.init(torch.tensor([100.0, 200.0, 300.0]))
        mixes = [mix]
        for step in range(3):
            mix, state = rule.update(MixSignal(step, torch.ones(3), loss_K=loss_K), state)
            mixes.append(mix)
        return torch.stack([mix.sample_K for mix in mixes])

    assert torch.equal(path(torch.tensor([1.0, 2.0, 3.0])), path(torch.tensor([9.0, 0.0, 0.5])))

"""Each thing that a rule may be given on top, alone, by numbers."""

from dataclasses import replace
from math import inf, log

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.aioli import Aioli
from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.ama_s import AMAS
from mixalign.mixers.base import MixSignal
from mixalign.mixers.fixed import Temperature
from mixalign.mixers.group_dro import GroupDRO
from mixalign.mixers.ideal import Ideal
from mixalign.mixers.odm import ODM
from mixalign.mixers.schedule import Schedule
from mixalign.mixers.skill_it import SkillIt
from mixalign.mixers.wrapped import Wrapped, wrap

NAN = float("nan")
ONE_STEP = [log(9), 0.0]  # the rule alone: 9 : 1 after one update, 81 : 1 after two


def measured(step, excess, count=(1.0, 1.0)):
    excess_K = torch.tensor(excess, dtype=torch.float64)
    return MixSignal(step, torch.tensor(count), excess_K, excess_K, excess_K.nan_to_num(), loss_iw_K=excess_K)


def path(mixer, *signals, rows=(100.0, 300.0)):
    """The first task's weight, before the first update and after each."""
    mix, state = mixer.init(torch.tensor(rows))
    weights = [float(mix.alpha_K[0])]
    for signal in signals:
        mix, state = mixer.update(signal, state)
        weights.append(float(mix.alpha_K[0]))
    return weights


@pytest.mark.parametrize("rule", [AMAS(eta=1.0, c=0.0), AMAR(eta=1.0)], ids=["ama_s", "ama_r"])
@pytest.mark.parametrize(
    ("settings", "weights"),  # of AMA-R with eta 1: 1/2, 9/10, 81/82
    [
        ({}, [1 / 2, 9 / 10, 81 / 82]),
        ({"prior": "proportional"}, [1 / 4, 9 / 12, 81 / 84]),  # odds 1 : 3, times the rule's
        ({"prior": [2, 1]}, [2 / 3, 18 / 19, 162 / 163]),
        ({"temperature": 2}, [1 / 2, 3 / 4, 9 / 10]),  # odds are square roots
        ({"temperature": 2, "prior": "proportional"}, [1 / 4, 3 / 6, 9 / 12]),  # the prior itself is not tempered
        ({"average": True}, [1 / 2, 0.7, (0.5 + 0.9 + 81 / 82) / 3]),
        ({"floor": 0.5}, [1 / 2, 0.7, 0.25 + 81 / 164]),
        ({"floor": 0.5, "prior": "proportional"}, [1 / 4, 0.5, 0.125 + 81 / 168]),  # spread as the prior has it
        ({"warmup": 2}, [1 / 2, 1 / 2, 81 / 82]),  # steps 0 and 1 are warm-up, and step 2 knows what they showed
        ({"warmup": 2, "prior": "proportional"}, [1 / 4, 1 / 4, 81 / 84]),
        ({"every": 2}, [1 / 2, 1 / 2, 9 / 10]),
    ],
)
def test_each_setting(rule, settings, weights):
    found = path(Wrapped(rule, **settings), measured(0, ONE_STEP), measured(1, ONE_STEP))
    assert found == pytest.approx(weights, abs=1e-12)


def test_only_the_lever_of_the_rule_is_changed():
    mix, _ = Wrapped(AMAR(), prior="proportional").init(torch.tensor([100.0, 300.0]))
    assert (mix.sample_K.tolist(), mix.loss_K.tolist()) == ([0.5, 0.5], [0.25, 0.75])
    mix, _ = Wrapped(AMAS(), prior="proportional").init(torch.tensor([100.0, 300.0]))
    assert (mix.sample_K.tolist(), mix.loss_K) == ([0.25, 0.75], None)


def test_a_prior_survives_a_rule_that_leaves_its_tasks():
    """The rule puts all its weight, to the bit, on a task that the prior excludes."""
    assert path(Wrapped(AMAR(eta=1e6), prior=[0, 1]), measured(0, [9.0, 0.0])) == [0, 0]


def interval(rule, *signals):
    """The one signal that the rule gets of an interval of these."""
    seen = []

    class Spy(type(rule)):
        def update(self, signal, state):
            seen.append(signal)
            return super().update(signal, state)

    path(Wrapped(Spy(**vars(rule)), every=len(signals)), *signals, rows=[1.0] * len(signals[0].count_K))
    (signal,) = seen
    return signal


def test_means_over_an_interval_are_weighted_by_counts():
    """Task 0: (3 * .2 + 1 * .6) / 4 = .3. Task 1 is absent at first; task 2 throughout, and stays unknown."""
    first, second = measured(0, [0.2, NAN, NAN], (3.0, 0.0, 0.0)), measured(1, [0.6, 0.5, NAN], (1.0, 2.0, 0.0))
    signal = interval(AMAR(), first, second)
    assert signal.excess_K.tolist() == pytest.approx([0.3, 0.5, NAN], nan_ok=True)
    assert (signal.count_K.tolist(), signal.step) == ([4, 2, 0], 1)


def test_means_over_an_interval_are_weighted_by_the_weights_of_rows():
    """(1 + 3 * 5) / 4 for the first task, though more rows were drawn of the step with excess 1; none for the other."""

    class Spy(AMAR):
        def update(self, signal, state):
            seen.append(signal)
            return super().update(signal, state)

    seen: list[MixSignal] = []
    mixer = Wrapped(Spy(eta=1.0), every=2)
    weights = [None, [3.0, 0.0], [1.0, 0.0], [3.0, 0.0]]  # None: 1 for each row
    signals = [measured(0, [1.0, NAN], (1.0, 0.0)), measured(1, [5.0, NAN], (2.0, 2.0))]
    signals += [measured(2, [1.0, NAN], (9.0, 2.0)), measured(3, [5.0, NAN], (2.0, 2.0))]
    signals = [
        replace(one, weight_K=None if weight is None else torch.tensor(weight, dtype=torch.float64))
        for one, weight in zip(signals, weights, strict=True)
    ]
    path(mixer, *signals)
    for one, counts, weight in zip(seen, ([3.0, 2.0], [11.0, 4.0]), ([4.0, 0.0], [4.0, 0.0]), strict=True):
        assert float(one.excess_K[0]) == pytest.approx(4.0)
        assert one.excess_K[1].isnan()
        assert one.count_K.tolist() == counts
        assert one.weight_K.tolist() == weight


def test_importance_weighted_sums_are_averaged_over_batches():
    """An absent task's 0 counts: it is what makes the estimate unbiased. (4 + 0) / 2 = 2, whatever the counts."""
    signal = interval(ODM(warmup=0), measured(0, [4.0, 1.0], (3.0, 1.0)), measured(1, [0.0, 2.0], (0.0, 4.0)))
    assert signal.loss_iw_K.tolist() == [2.0, 1.5]


def test_the_last_validation_of_an_interval_counts():
    evals = [[NAN, NAN], [1.0, 2.0], [3.0, 4.0], [NAN, NAN]]
    signals = [
        MixSignal(step, torch.ones(2), eval_loss_K=torch.tensor(row, dtype=torch.float64))
        for step, row in enumerate(evals)
    ]
    assert interval(SkillIt(), *signals).eval_loss_K.tolist() == [3.0, 4.0]


def test_probes_measure_once_in_an_interval():
    """A rule that asks always is told of the last measurement only."""
    assert [step for step in range(1, 10) if Wrapped(AMAR(), every=3).asks(step)] == [3, 6, 9]
    assert all(Wrapped(AMAR(), floor=0.1).asks(step) for step in range(1, 10))


def test_an_interval_around_a_rule_with_steps_of_its_own_is_refused():
    """Bursts of 4 steps from step 2 on have their borders at 2, 6, 10; every third step would meet 6 only."""
    rule = Aioli(rounds=1, steps=4, every=20, warmup=2, until=100)
    with pytest.raises(
        MixalignError, match=r"`mixer\.wrap\.every` is 3, but Aioli has steps of its own.*`mixer\.every`"
    ):
        Wrapped(rule, every=3)
    wrapped = Wrapped(rule, floor=0.1).for_run(["a", "b"], 60)
    assert [step for step in range(1, 13) if wrapped.asks(step)] == [2, 6, 10]


def test_an_interval_counts_updates_and_begins_afresh():
    """A step whose loss was not finite makes no update: the interval ends one step later."""
    mixer = Wrapped(AMAR(eta=1.0), every=2)
    steps = [measured(0, ONE_STEP), measured(2, ONE_STEP), measured(3, [0.0, 0.0]), measured(4, [0.0, 0.0])]
    assert path(mixer, *steps) == pytest.approx([1 / 2, 1 / 2, 9 / 10, 9 / 10, 9 / 10])


def test_a_rule_sees_the_steps_of_the_run_and_not_of_the_intervals():
    """A schedule that turns at step 4 does so under `every: 2` as well."""
    schedule = Schedule([{"until": 4, "weights": [1, 0]}, {"weights": [0, 1]}])
    assert path(Wrapped(schedule, every=2), *[measured(n, ONE_STEP) for n in range(4)]) == [1, 1, 1, 1, 0]


def test_a_task_seen_often_enough_gets_no_more_weight():
    """100 and 300 rows, 60 of each a batch: the cap of one epoch ends task 0 after two batches, task 1 after five."""
    signals = [measured(n, [0.0, 0.0], (60.0, 60.0)) for n in range(6)]
    assert path(Wrapped(AMAR(), max_epochs=1), *signals) == [0.5, 0.5, 0, 0, 0, 0.5, 0.5]
    mixer = Wrapped(AMAR(), max_epochs=1)
    mix, state = mixer.init(torch.tensor([100.0, 300.0]))
    for signal in signals[:2]:
        mix, state = mixer.update(signal, state)
    assert (mix.sample_K.tolist(), mix.loss_K.tolist()) == ([0, 1], [0, 1]), "neither drawn nor weighted"


@pytest.mark.parametrize("rule", [AMAS(), AMAR(), ODM(warmup=0), Temperature()], ids=lambda rule: type(rule).__name__)
def test_without_settings_the_rule_is_the_same_to_the_bit(rule):
    signals = [measured(n, torch.rand(2, generator=torch.Generator().manual_seed(n)).tolist()) for n in range(30)]
    assert path(Wrapped(rule), *signals) == path(rule, *signals)


def test_tells_the_loop_what_the_rule_tells():
    rule = AMAS(eta=1.0, clip="task")
    wrapped = Wrapped(rule, every=2)
    for name in ("needs", "composition", "descends_on", "clip"):
        assert getattr(wrapped, name) == getattr(rule, name)
    assert wrapped.caution(6, 4) == rule.caution(6, 8), "two batches of 4 are one sample of 8"
    assert Wrapped(AMAR()).caution(6, 4) is None


def test_shares_and_names_are_those_of_the_run():
    mixer = Wrapped(ODM(warmup=0.1), prior={"b": 1, "a": 3}, warmup=0.25).for_run(["a", "b"], 40)
    assert (mixer.warmup, mixer.mixer.warmup) == (10, 4)
    assert mixer.init(torch.ones(2))[0].sample_K.tolist() == [0.75, 0.25]
    with pytest.raises(MixalignError, match=r"`mixer.wrap.warmup` is 0.25, a share"):
        Wrapped(AMAR(), warmup=0.25).init(torch.ones(2))
    with pytest.raises(MixalignError, match=r"`mixer.wrap.prior` names `c`, which is no task"):
        Wrapped(AMAR(), prior={"c": 1}).for_run(["a", "b"], 40)


def test_wrap_leaves_a_rule_alone_that_gets_nothing():
    rule = GroupDRO()
    assert wrap(rule, {}) is rule
    assert wrap(rule, {"floor": 0.0, "prior": None, "max_epochs": inf}) is rule
    assert wrap(Ideal(), {"floor": 0.0}) == Ideal()
    assert wrap(rule, {"floor": 0.1}) == Wrapped(rule, floor=0.1)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"prior": "unifrom"}, "prior"),
        ({"prior": [0, 0]}, "prior"),
        ({"temperature": 0}, "temperature"),
        ({"average": "yes"}, "average"),
        ({"floor": 1.5}, "floor"),
        ({"warmup": -1}, "warmup"),
        ({"every": 0}, "every"),
        ({"max_epochs": -1}, "max_epochs"),
    ],
)
def test_a_bad_setting_is_named(settings, key):
    with pytest.raises(MixalignError, match=rf"`mixer\.wrap\.{key}` is "):
        Wrapped(AMAR(), **settings)


def test_a_rule_of_rounds_is_refused():
    with pytest.raises(MixalignError, match="between rounds"):
        Wrapped(Ideal(), floor=0.1)

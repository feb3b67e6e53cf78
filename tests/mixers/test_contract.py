"""One battery for every rule in conf/mixer: a new file there is tested without a new line here.

Signals are random, but follow the contract of MixSignal: a task without a sample has count 0, nan means, and 0
in the importance-weighted sums (the fields that end in `_iw_K`). Fields that end in `_KK` are symmetric, with nan in
the rows and columns of an absent task. What probes measure is there at every step, also for rules that ask for it
now and then, except where a test says otherwise.
"""

import io
import math
from copy import deepcopy
from dataclasses import FrozenInstanceError, fields, replace
from functools import cache

import pytest
import torch
from omegaconf import OmegaConf

from mixalign.config.build import build
from mixalign.config.compose import CONF
from mixalign.errors import MixalignError
from mixalign.losses.excess import CLIPS
from mixalign.mixers.base import PROBED, Mixer, MixSignal
from mixalign.mixers.measurements import PROVIDERS
from mixalign.mixers.wrapped import Wrapped

FILES = {path.stem: path for path in sorted((CONF / "mixer").glob("*.yaml"))}
MEASUREMENTS = [f.name for f in fields(MixSignal) if f.name not in ("step", "count_K", "weight_K")]


def make(name, **settings):
    """The rule of a file, told the length of the run."""
    node = OmegaConf.to_container(OmegaConf.load(FILES[name]))
    return build(node, "name", **settings).for_run([], 10)


MIXERS = {name: make(name) for name in FILES}
MOVING = [name for name, mixer in MIXERS.items() if not mixer.static]
ROUNDS = [name for name in MOVING if MIXERS[name].cadence == "round"]
WINDOWED = ["skill_it"]  # its weights are a softmax over the last validations, not steps from the weights before
HELD = ["doremi"]  # a task without a sample has its last excess once more
SCORED = ["ado", "dump", "sec"]  # its weights are a score of each task, relative to the others
SCORED += [name for name in MOVING if MIXERS[name].needs & {"gain_K", "probe_loss_K"}]
OTHERS = ROUNDS + WINDOWED + HELD + SCORED
MEAN_BASED = [n for n in MOVING if n not in OTHERS and not any(x.endswith("_iw_K") for x in MIXERS[n].needs)]
SETTINGS = [(name, field.name) for name, mixer in MIXERS.items() for field in fields(mixer)]

WRAPS = {
    "alone": {},
    "all": {"prior": "proportional", "temperature": 2, "average": True, "floor": 0.1, "warmup": 3, "max_epochs": 5},
    "interval": {"every": 3},
}
WRAPPED = {f"{n}-{w}": Wrapped(MIXERS[n], **WRAPS[w]) for n in ("ama_s", "ama_r", "odm") for w in WRAPS}
MOVING_MIXERS = {n: MIXERS[n] for n in MOVING} | WRAPPED

every_mixer = pytest.mark.parametrize("mixer", (MIXERS | WRAPPED).values(), ids=MIXERS | WRAPPED)
moving_mixers = pytest.mark.parametrize("mixer", MOVING_MIXERS.values(), ids=MOVING_MIXERS)
PROBED_MIXERS = {n: mixer for n, mixer in MIXERS.items() if mixer.needs & PROBED}
PROBED_MIXERS |= {f"{n}-all": Wrapped(mixer, **WRAPS["all"]) for n, mixer in PROBED_MIXERS.items()}
probed_mixers = pytest.mark.parametrize("mixer", PROBED_MIXERS.values(), ids=PROBED_MIXERS)
mean_based_mixers = pytest.mark.parametrize("mixer", [MIXERS[n] for n in MEAN_BASED], ids=MEAN_BASED)


def rows(num_tasks):
    return torch.arange(1, num_tasks + 1, dtype=torch.float64) * 100


def signal(num_tasks, step=0, *, scale=1.0, absent=()):
    """Every measurement at random, the same for the same step; from -scale/2 to scale."""
    return _signal(num_tasks, step, scale, tuple(absent))


@cache  # a rule may not change it
def _signal(num_tasks, step, scale, absent):
    rng = torch.Generator().manual_seed(step)
    gone_K = torch.zeros(num_tasks, dtype=torch.bool)
    gone_K[list(absent)] = True
    values = {}
    for name in MEASUREMENTS:
        value = torch.rand((num_tasks,) * name.count("K"), generator=rng, dtype=torch.float64)
        gone = gone_K
        if name.endswith("_KK"):
            value, gone = (value + value.T) / 2, gone_K | gone_K[:, None]
        value = scale * (1.5 * value - 0.5)
        values[name] = value.masked_fill(gone, 0.0 if name.endswith("_iw_K") else torch.nan)
    values["confidence_K"] = 0.5 + 0.5 * (values["benefit_K"].abs() / scale > 0.2).double()
    count_K = torch.randint(1, 9, (num_tasks,), generator=rng).double().masked_fill(gone_K, 0)
    return MixSignal(step, count_K, **values)


def run(mixer, num_tasks, updates, **options):
    mix, state = mixer.init(rows(num_tasks))
    for step in range(updates):
        mix, state = mixer.update(signal(num_tasks, step, **options), state)
    return mix, state


def levers(mix):
    return {"sample_K": mix.sample_K} if mix.loss_K is None else {"sample_K": mix.sample_K, "loss_K": mix.loss_K}


def assert_on_simplex(mix, num_tasks):
    for name, weight_K in levers(mix).items():
        assert (weight_K.dtype, weight_K.device.type) == (torch.float64, "cpu"), name
        assert weight_K.shape == (num_tasks,), name
        assert (weight_K >= 0).all(), f"{name} is negative or nan: {weight_K}"
        assert float(weight_K.sum()) == pytest.approx(1, abs=1e-9), name


def reordered(value, order):
    """What was measured, with the tasks in another order: every axis is one of tasks."""
    for axis in range(value.ndim):
        value = value.index_select(axis, order)
    return value


def unmeasured(given):
    """The signal of a step after which no probe measured."""
    return replace(given, **{name: torch.full_like(getattr(given, name), torch.nan) for name in PROBED})


def assert_same(a, b, *, atol=0.0):
    torch.testing.assert_close(a, b, rtol=0, atol=atol, equal_nan=True)


def tensors(value):
    return {k: v for k, v in vars(value).items() if isinstance(v, torch.Tensor)}


def test_there_are_rules_to_test():
    assert {"ama_r", "ama_s", "group_dro", "proportional", "temperature", "uniform"} <= {*FILES}
    assert {"ama_r", "group_dro"} <= {*MEAN_BASED}


@pytest.mark.parametrize("name", FILES)
def test_the_name_in_the_file_is_the_name_of_the_file(name):
    assert OmegaConf.load(FILES[name]).name == name


@every_mixer
def test_says_what_it_needs_and_how_batches_are_made_up(mixer):
    assert isinstance(mixer, Mixer)
    assert mixer.needs <= {*MEASUREMENTS}, "needs something that MixSignal does not have"
    assert mixer.needs <= {*PROVIDERS}, "no message tells who measures it"
    assert mixer.composition in ("stratified", "multinomial")
    assert mixer.descends_on in ("loss", "excess")
    assert mixer.clip in CLIPS


@every_mixer
def test_holds_no_state_of_its_own(mixer):
    with pytest.raises(FrozenInstanceError):
        mixer.needs_more = 1
    assert all(v is None or isinstance(v, int | float | str | list | tuple | Mixer) for v in vars(mixer).values())
    before = deepcopy(vars(mixer))
    run(mixer, 6, 3)
    assert vars(mixer) == before


@every_mixer
@pytest.mark.parametrize("num_tasks", [1, 2, 6, 1000])
def test_weights_are_on_the_simplex(mixer, num_tasks):
    assert_on_simplex(mixer.init(rows(num_tasks))[0], num_tasks)
    assert_on_simplex(run(mixer, num_tasks, 5)[0], num_tasks)


@every_mixer
def test_a_single_task_has_all_the_weight(mixer):
    for mix in (mixer.init(rows(1))[0], run(mixer, 1, 5)[0], run(mixer, 1, 5, absent=[0])[0]):
        for weight_K in levers(mix).values():
            assert weight_K.tolist() == pytest.approx([1])


@moving_mixers
def test_a_moving_rule_moves_exactly_one_lever(mixer):
    (first, _), (last, _) = mixer.init(rows(6)), run(mixer, 6, 20)
    moved = [name for name, weight_K in levers(last).items() if not torch.equal(weight_K, levers(first)[name])]
    assert len(moved) == 1
    assert torch.equal(last.alpha_K, levers(last)[moved[0]]), "alpha_K must be the lever that moves"


@every_mixer
def test_update_is_pure(mixer):
    _, state = run(mixer, 6, 3)
    given = signal(6, 3, absent=[2])
    before = {"signal": tensors(given), "state": dict(state)}
    before = {part: {k: v.clone() for k, v in values.items()} for part, values in before.items()}
    first, second = mixer.update(given, state), mixer.update(given, state)
    assert_same(levers(first[0]), levers(second[0]))
    assert_same(first[1], second[1])
    assert_same(tensors(given), before["signal"])
    assert_same(dict(state), before["state"])


@every_mixer
def test_state_survives_a_checkpoint(mixer):
    _, state = run(mixer, 6, 3)
    assert type(state) is dict
    assert all(type(k) is str and isinstance(v, torch.Tensor) for k, v in state.items())
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert_same(loaded, state)
    assert_same(levers(mixer.update(signal(6, 3), loaded)[0]), levers(mixer.update(signal(6, 3), state)[0]))


@every_mixer
def test_the_order_of_the_tasks_does_not_matter(mixer):
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    (mix, state), (turned, turned_state) = mixer.init(rows(6)), mixer.init(rows(6)[order])
    for step in range(6):
        assert_same(levers(turned), {k: v[order] for k, v in levers(mix).items()}, atol=1e-14)
        given = signal(6, step, absent=[step])
        mix, state = mixer.update(given, state)
        turned_given = replace(given, **{k: reordered(v, order) for k, v in tensors(given).items()})
        turned, turned_state = mixer.update(turned_given, turned_state)


@pytest.mark.long
@every_mixer
def test_long_runs_with_large_signals_stay_finite_and_on_the_simplex(mixer):
    mix, state = mixer.init(rows(6))
    for step in range(2000):
        mix, state = mixer.update(signal(6, step, scale=1e4, absent=[step % 7] if step % 7 < 6 else []), state)
    assert_on_simplex(mix, 6)
    assert all(v.isfinite().all() for v in state.values()), state


@every_mixer
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 0.0])
@pytest.mark.parametrize("where", ["one task", "all tasks"])
def test_what_is_not_finite_counts_as_not_measured(mixer, value, where):
    """In every field at once and one by one: weights stay on the simplex, and the rule moves again afterwards."""
    hit = slice(1, 2) if where == "one task" else slice(None)
    for name in [*(mixer.needs & {*MEASUREMENTS}), None]:
        mix, state = run(mixer, 6, 3)
        for step in range(3, 9):
            given = signal(6, step)
            changed = {n: getattr(given, n).clone() for n in ([name] if name else MEASUREMENTS)}
            for broken in changed.values():
                broken[hit] = value
            mix, state = mixer.update(replace(given, **changed), state)
            assert_on_simplex(mix, 6)
        before = mix
        for step in range(9, 60):
            mix, state = mixer.update(signal(6, step), state)
            assert_on_simplex(mix, 6)
        assert all(v.isfinite().all() or "sum." in key for key, v in state.items()), (name, state)
        assert mixer.static or mixer.cadence == "round" or not torch.equal(mix.alpha_K, before.alpha_K)


@every_mixer
def test_rows_may_have_weights(mixer):
    """Of a task whose samples all have weight 0 there is no mean; weights of 1 are none."""
    mix, state = mixer.init(rows(6))
    plain, plain_state = mixer.init(rows(6))
    same, same_state = mixer.init(rows(6))
    for step in range(40):
        given = signal(6, step, absent=[step % 7] if step % 7 < 6 else [])
        some_K = given.count_K * (torch.arange(6) + step % 3) / 4
        gone_K = given.loss_K.isnan() | (some_K == 0)
        means = {name: torch.where(gone_K, torch.nan, getattr(given, name)) for name in ("loss_K", "excess_K")}
        means |= {f"{k}_iw_K": getattr(given, f"{k}_iw_K").masked_fill(gone_K, 0) for k in ("loss", "excess")}
        mix, state = mixer.update(replace(given, weight_K=some_K, **means), state)
        plain, plain_state = mixer.update(given, plain_state)
        same, same_state = mixer.update(replace(given, weight_K=given.count_K.clone()), same_state)
    assert_on_simplex(mix, 6)
    assert all(v.isfinite().all() or "sum." in name for name, v in state.items()), state
    assert_same(levers(same), levers(plain))


@mean_based_mixers
@pytest.mark.parametrize("absent", [[0], [1, 4], [0, 1, 2, 3, 4, 5]])
def test_an_absent_task_keeps_its_share(mixer, absent):
    """A zero in place of "not measured" would lower it against the others."""
    mix, state = run(mixer, 6, 3)
    after, _ = mixer.update(signal(6, 3, absent=absent), state)
    there = [k for k in range(6) if k not in absent]
    assert_same(after.alpha_K[absent], mix.alpha_K[absent], atol=1e-15)
    assert not there or not torch.equal(after.alpha_K[there], mix.alpha_K[there])


@probed_mixers
@pytest.mark.parametrize("measured", [True, False], ids=["when asked", "never"])
def test_steps_without_a_measurement_by_probes(mixer, measured):
    assert any(mixer.asks(step) for step in range(1, 61))
    mix, state = mixer.init(rows(6))
    for step in range(60):
        given = signal(6, step, absent=[step % 6])
        mix, state = mixer.update(given if measured and mixer.asks(step + 1) else unmeasured(given), state)
        assert_on_simplex(mix, 6)


@moving_mixers
def test_a_missing_measurement_is_named_with_its_source(mixer):
    _, state = mixer.init(rows(3))
    with pytest.raises(MixalignError) as error:
        mixer.update(MixSignal(0, torch.ones(3)), state)
    (named,) = [need for need in mixer.needs if f"`{need}`" in str(error.value)]
    assert PROVIDERS[named] in str(error.value)


@moving_mixers
def test_a_measurement_of_another_number_of_tasks_is_refused(mixer):
    _, state = mixer.init(rows(3))
    with pytest.raises(MixalignError, match=r"has shape \(4,.*\), but the mixture has 3 tasks"):
        mixer.update(signal(4), state)


@pytest.mark.parametrize(("name", "key"), SETTINGS, ids=[f"{n}.{k}" for n, k in SETTINGS])
def test_a_bad_setting_is_named(name, key):
    word = isinstance(getattr(MIXERS[name], key), str)
    for bad in ["nonsense"] if word else [-1, math.nan, "much", None]:
        with pytest.raises(MixalignError, match=rf"`mixer\.{key}` is "):
            make(name, **{key: bad})


@pytest.mark.parametrize("name", FILES)
def test_every_setting_is_in_the_file(name):
    """The file is where users look for what can be set."""
    assert {f.name for f in fields(MIXERS[name])} == {*OmegaConf.load(FILES[name])} - {"_target_", "name"}


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_setting_is_refused(name):
    with pytest.raises(MixalignError, match="gamma_ray"):
        make(name, gamma_ray=1)

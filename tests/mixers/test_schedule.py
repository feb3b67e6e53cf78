"""A schedule's mixtures, step by step."""

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.base import MixSignal
from mixalign.mixers.schedule import Schedule

PHASES = [{"until": 2, "weights": [1, 1]}, {"until": 0.6, "weights": {"a": 3, "b": 1}}, {"weights": "proportional"}]


def path(mixer, steps):
    """The first task's share at each step; the tasks have 100 and 900 rows."""
    mix, state = mixer.init(torch.tensor([100.0, 900.0]))
    shares = [float(mix.sample_K[0])]
    for step in range(steps - 1):
        mix, state = mixer.update(MixSignal(step, torch.ones(2)), state)
        shares.append(float(mix.sample_K[0]))
    return shares


def test_phases_last_until_their_step_or_share():
    """Of ten steps: two uniform, four up to .6 of the run with weights by name, and then those by size."""
    mixer = Schedule(PHASES).for_run(["a", "b"], 10)
    assert path(mixer, 12) == pytest.approx([0.5] * 2 + [0.75] * 4 + [0.1] * 6)


def test_interpolation_reaches_each_mixture_at_the_end_of_its_phase():
    """.5 until step 2, then + .25 / 4 a step to .75 at step 6, then - .65 / 4 a step to .1 at step 10, and stays."""
    mixer = Schedule(PHASES, interpolate=True).for_run(["a", "b"], 10)
    wanted = [0.5, 0.5, 0.5, 0.5625, 0.625, 0.6875, 0.75, 0.5875, 0.425, 0.2625, 0.1, 0.1]
    assert path(mixer, 12) == pytest.approx(wanted)


def test_a_phase_may_outlast_the_run():
    phases = [{"until": 500, "weights": [1, 0]}, {"weights": [0, 1]}]
    for interpolate in (False, True):
        assert path(Schedule(phases, interpolate).for_run(["a", "b"], 10), 12) == [1] * 12


def test_names_follow_the_order_of_the_tasks_and_a_missing_one_has_no_weight():
    mixer = Schedule([{"weights": {"c": 1, "a": 3}}]).for_run(["a", "b", "c"], 10)
    assert mixer.init(torch.ones(3))[0].sample_K.tolist() == [0.75, 0, 0.25]


@pytest.mark.parametrize(
    ("phases", "says"),
    [
        ([], "`mixer.phases` is"),
        ([{"until": 3}], r"`mixer.phases.0` is .* must have `until` and `weights`"),
        ([{"untill": 3, "weights": "uniform"}], "must have `until` and `weights`, and no more"),
        (
            [{"weights": "uniform"}, {"weights": "uniform"}],
            "`mixer.phases.0.until` is None.* only the last phase",
        ),
        ([{"until": -1, "weights": "uniform"}], "`mixer.phases.0.until` is -1"),
        ([{"weights": "unifrom"}], "Did you mean `uniform`?"),
        ([{"weights": [0, 0]}], "`mixer.phases.0.weights` is"),
        ([{"weights": {"a": -1}}], "`mixer.phases.0.weights` is"),
        ([{"until": 9, "weights": "uniform"}, {"until": 5, "weights": "uniform"}], r"last until \[9, 5\]"),
    ],
)
def test_bad_phases(phases, says):
    with pytest.raises(MixalignError, match=says):
        Schedule(phases)


def test_weights_of_other_tasks_are_refused():
    with pytest.raises(MixalignError, match=r"names `maths`, which is no task. Did you mean `math`"):
        Schedule([{"weights": {"maths": 1}}]).for_run(["math", "code"], 10)
    with pytest.raises(MixalignError, match="has 3 weights, but there are 2 tasks"):
        Schedule([{"weights": [1, 2, 3]}]).init(torch.ones(2))


def test_shares_and_names_need_a_run():
    with pytest.raises(MixalignError, match=r"`mixer.phases.0.until` is 0.5, a share of the run"):
        Schedule().init(torch.ones(2))
    with pytest.raises(MixalignError, match=r"`mixer.interpolate` needs the run's last step"):
        Schedule([{"until": 2, "weights": [1]}, {"weights": [1]}], interpolate=True).init(torch.ones(1))
    with pytest.raises(MixalignError, match="has task names"):
        Schedule([{"weights": {"a": 1}}]).init(torch.ones(2))

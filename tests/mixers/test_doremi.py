"""DoReMi's arithmetic (arXiv 2305.10429, Algorithm 1): alpha_i <- (1 - c) alpha_i exp(eta lambda_i) / Z + c / K."""

from math import log

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.base import MixSignal
from mixalign.mixers.doremi import DoReMi

NAN = float("nan")


def path(mixer, *excesses):
    """The loss weights after each update."""
    mix, state = mixer.init(torch.ones(len(excesses[0])))
    found = []
    for step, excess in enumerate(excesses):
        excess_K = torch.tensor(excess, dtype=torch.float64)
        mix, state = mixer.update(MixSignal(step, torch.ones(len(excess)), excess_K=excess_K), state)
        assert mix.sample_K.tolist() == pytest.approx([1 / len(excess)] * len(excess))  # the loss is what it weighs
        found.append(mix.loss_K.tolist())
    return found


def test_every_step_is_smoothed_and_the_next_one_starts_there():
    """Two tasks, c = .2, excess log 3 and 0: 3 : 1 and then .8 * .75 + .1 = .7; again .7 * 3 / (.7 * 3 + .3) = .875."""
    first, second = path(DoReMi(c=0.2), [log(3), 0], [log(3), 0])
    assert first == pytest.approx([0.7, 0.3])
    assert second == pytest.approx([0.8 * 0.875 + 0.1, 0.8 * 0.125 + 0.1])


@pytest.mark.parametrize(
    ("excesses", "weights"),
    [
        ([[log(3), 0], [NAN, 0]], [0.9, 0.1]),  # 3 : 1, then the same excess once more: 9 : 1
        ([[log(3), 0], [NAN, NAN]], [0.9, 0.1]),
        ([[log(3), 0], [0, NAN]], [0.75, 0.25]),
        ([[NAN, 5]], [0.5, 0.5]),  # nothing is known of the first: it keeps its share, which leaves the rest to one
        ([[NAN, 5], [log(3), 0]], [0.75, 0.25]),
    ],
)
def test_a_task_without_a_sample_has_its_last_excess_once_more(excesses, weights):
    assert path(DoReMi(c=0), *excesses)[-1] == pytest.approx(weights)


def test_the_published_code_has_the_same_weights():
    """`update_domain_weights` of sangmichaelxie/doremi (doremi/trainer.py, commit 7cde52d), which computes in float32.

    Its arguments, with reweight_eta=1 and reweight_eps=1e-3: rows of one token each, two of every domain that is there,
    whose differences to the reference model's loss are .8 -.4 | .3 .1 | -.2 .5, then .6 .2 | none | -.1 -.3, and
    then -.5 .4 | .9 .1 | .7 .2. With one token a row its clip by token is the clip by row.
    """
    gaps = [
        [[0.8, -0.4], [0.3, 0.1], [-0.2, 0.5]],
        [[0.6, 0.2], [], [-0.1, -0.3]],
        [[-0.5, 0.4], [0.9, 0.1], [0.7, 0.2]],
    ]
    excesses = [[torch.tensor(gap_B).clamp_min(0).mean() for gap_B in gaps_K] for gaps_K in gaps]
    published = [
        [0.3731726110, 0.3055883050, 0.3212390840],
        [0.4448300004, 0.2983472645, 0.2568227053],
        [0.3777870834, 0.3420609534, 0.2801520228],
    ]
    for ours, theirs in zip(path(DoReMi(eta=1, c=1e-3), *excesses), published, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-7)


def test_no_weight_is_ever_lost():
    """Without smoothing a weight falls to exp(-5000), which is 0, and still comes back; with c it stays above c / K."""
    far = [[100.0, 0.0]] * 50
    lost, *_, back = path(DoReMi(c=0), *far, *[[0.0, 100.0]] * 51)[49:]
    assert lost == [1, 0]
    assert back == pytest.approx([0, 1])
    assert path(DoReMi(c=0.01), *far)[-1] == pytest.approx([0.995, 0.005])
    assert path(DoReMi(c=1), *far)[-1] == pytest.approx([0.5, 0.5])


def test_the_baselines_mixture_is_checked_against_the_tasks():
    assert DoReMi().for_run(["a", "b"], 10) == DoReMi()
    assert DoReMi(baseline={"b": 3}).for_run(["a", "b"], 10).baseline == [0, 3]
    with pytest.raises(MixalignError, match=r"`mixer.baseline` names `c`, which is no task"):
        DoReMi(baseline={"c": 3}).for_run(["a", "b"], 10)
    with pytest.raises(MixalignError, match=r"`mixer.baseline` has 3 weights, but there are 2 tasks"):
        DoReMi(baseline=[1, 2, 3]).for_run(["a", "b"], 10)
    with pytest.raises(MixalignError, match=r"`mixer.baseline` is \[0, 0\]"):
        DoReMi(baseline=[0, 0])

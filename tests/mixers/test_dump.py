"""DUMP's arithmetic (arXiv 2504.09710, Algorithm 1): upper confidence bounds on a window of the signal."""

from math import log, sqrt

import pytest
import torch

from mixalign.mixers.base import MixSignal
from mixalign.mixers.dump import DUMP

NAN = float("nan")


def play(mixer, *steps):
    """The mixtures after updates with (counts, values of the mixer's signal), and the last state."""
    _, state = mixer.init(torch.ones(len(steps[0][0])))
    (need,) = mixer.needs
    mixes = []
    for step, (count, value) in enumerate(steps):
        given = {need: torch.tensor(value, dtype=torch.float64)}
        mix, state = mixer.update(MixSignal(step, torch.tensor(count), **given), state)
        mixes.append(mix.sample_K.tolist())
    return mixes, state


def test_is_the_published_controller():
    """CurriculumController of ZhentingWang/DUMP at 235e85d, `verl/utils/curriculum_learning.py`, window 300.

    Of a task's 370 samples the first 70 leave the window: .7 counts 50 times, .6 and .2 100 and 150 times.
    """
    steps = [
        ([120, 60, 0], [0.7, -0.5, NAN]),
        ([100, 20, 0], [0.6, 0.5, NAN]),
        ([150, 0, 30], [0.2, NAN, 0.9]),
        ([0, 180, 0], [NAN, -0.1, NAN]),
    ]
    mixes, _ = play(DUMP(), *steps)
    assert mixes[0] == pytest.approx([2.0396682224342667e-10, 9.138848781316978e-11, 0.9999999997046447], abs=1e-10)
    assert mixes[2] == pytest.approx([8.93752994475571e-05, 0.001646722527760684, 0.9982639021727918], abs=1e-10)
    assert mixes[3] == pytest.approx([7.987325685557762e-05, 1.651455249637591e-05, 0.9999036121906479], abs=1e-10)


def test_the_score_is_mean_plus_bonus():
    """20 of 30 samples with .5, 10 with .8: .5 + sqrt(2 ln 31 / 21) against .8 + sqrt(2 ln 31 / 11)."""
    (sample,), _ = play(DUMP(temperature=1.0), ([20, 10], [0.5, 0.8]))
    scores = [0.5 + sqrt(2 * log(31) / 21), 0.8 + sqrt(2 * log(31) / 11)]
    assert sample == pytest.approx(torch.tensor(scores).double().softmax(0).tolist())


def test_the_window_forgets_and_keeps_no_more_than_it_needs():
    mixer = DUMP(window=4)
    _, state = play(mixer, *[([1.0], [float(n)]) for n in range(20)])
    assert state["value_WK"].flatten().tolist() == [19, 18, 17, 16]
    _, state = play(mixer, ([3.0], [9.0]), ([2.0], [1.0]))
    assert mixer._learnability(state["value_WK"], state["weight_WK"]).tolist() == [(2 * 1 + 2 * 9) / 4]


def test_a_validation_counts_as_one_sample_of_the_window():
    """Steps without one add samples, and so take from the bonus, but nothing to the mean."""
    mixer = DUMP(signal="eval_loss")
    _, state = play(mixer, ([8, 4], [0.6, 0.2]), ([8, 4], [NAN, NAN]), ([8, 4], [0.2, 0.2]))
    assert mixer.needs == {"eval_loss_K"}
    assert mixer._learnability(state["value_WK"], state["weight_WK"]).tolist() == pytest.approx([0.4, 0.2])
    assert state["seen_K"].tolist() == [24, 12]


def test_probes_are_asked_now_and_then_for_a_signal_that_is_probed():
    assert [step for step in range(1, 12) if DUMP(signal="noise", every=5).asks(step)] == [5, 10]
    assert not any(DUMP(signal="excess", every=1).asks(step) for step in range(1, 12))

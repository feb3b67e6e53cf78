"""SEC's arithmetic (arXiv 2505.14970): TD(0) on the signal's absolute value, and a Boltzmann policy."""

import pytest
import torch

from mixalign.mixers.bandit import SIGNALS
from mixalign.mixers.base import MixSignal
from mixalign.mixers.sec import SEC

NAN = float("nan")


def play(mixer, values):
    """The mixture and Q after one update a row of the mixer's signal."""
    mix, state = mixer.init(torch.ones(len(values[0])))
    (need,) = mixer.needs
    for step, value in enumerate(values):
        given = {need: torch.tensor(value, dtype=torch.float64)}
        mix, state = mixer.update(MixSignal(step, torch.ones(len(value)), **given), state)
    return mix.sample_K.tolist(), state["q_K"].tolist()


def test_is_the_published_bandit():
    """JointBandit, with lr .5 and temperature .4, given the advantages as signal.

    From the authors' `verl/utils/auto_curriculum/priority.py`, as Vincent-La/cofa keeps it in `sec/`, at 8b685cb.
    """
    advantages = [[0.8, -0.2, 0.4], [0.3, -0.9, 0.1], [0.5, 0.0, -0.7]]
    sample, q = play(SEC(temperature=0.4), advantages)
    assert q == pytest.approx([0.425, 0.25, 0.425], abs=1e-10)
    assert sample == pytest.approx([0.377979157099217, 0.24404168580156613, 0.377979157099217], abs=1e-10)
    assert play(SEC(temperature=0.4), advantages[:2])[0] == pytest.approx(
        [0.3266349141769858, 0.4752509958420674, 0.19811408998094665], abs=1e-10
    )


def test_an_absent_task_keeps_its_q():
    """.5 * 0 + .5 * .8 = .4 stays. The published code has .2 after the second step."""
    assert play(SEC(), [[0.8, 0.8], [NAN, 0.8]])[1] == pytest.approx([0.4, 0.6])


@pytest.mark.parametrize("signal", SIGNALS)
def test_the_signal_is_what_it_needs(signal):
    mixer = SEC(signal=signal, lr=1.0, temperature=1.0)
    assert mixer.needs == {SIGNALS[signal]}
    assert play(mixer, [[-1.0, 0.0]])[0] == pytest.approx(torch.tensor([1.0, 0.0]).softmax(0).tolist())


def test_probes_are_asked_now_and_then_for_a_signal_that_is_probed():
    assert [step for step in range(1, 12) if SEC(signal="gain", every=5).asks(step)] == [5, 10]
    assert not any(SEC(signal="loss", every=1).asks(step) for step in range(1, 12))

"""Velocitune's arithmetic (arXiv 2411.14318): w_i <- w_i exp(V_i), V_i the relative gap to the target."""

from math import e

import pytest
import torch

from mixalign.mixers.base import MixSignal
from mixalign.mixers.velocitune import Velocitune

NAN = float("nan")


@pytest.mark.parametrize(
    ("gaps", "sample"),
    [
        ([[0.8, 0.2]], [0.5, 0.5]),  # both have their whole way before them: V = 1, 1, whatever the nats
        ([[0.8, 0.2], [0.4, 0.2]], [1 / (1 + e**0.5), 1 / (1 + e**-0.5)]),  # V = .5, 1
        ([[0.8, 0.2], [0.0, 0.2]], [1 / (1 + e), e / (1 + e)]),  # V = 0, 1
        ([[0.8, 0.2], [-0.3, 0.9]], [1 / (1 + e), e / (1 + e)]),  # clamped to [0, 1]
        ([[0.8, 0.2], [0.0, 0.2], [0.0, 0.2]], [1 / (1 + e**2), e**2 / (1 + e**2)]),  # adds up
        ([[0.8, -0.2]], [e / (1 + e), 1 / (1 + e)]),  # at its target from the start: V = 0
        ([[NAN, NAN], [0.8, 0.2], [NAN, NAN], [0.0, 0.2]], [1 / (1 + e), e / (1 + e)]),  # steps without a validation
        ([[NAN, 0.2], [0.8, 0.2], [0.0, 0.2]], [1 / (1 + e), e / (1 + e)]),  # the first of each task
    ],
)
def test_weights(gaps, sample):
    mixer = Velocitune()
    mix, state = mixer.init(torch.ones(2))
    for step, gap in enumerate(gaps):
        gap_K = torch.tensor(gap, dtype=torch.float64)
        mix, state = mixer.update(MixSignal(step, torch.ones(2), eval_excess_K=gap_K), state)
    assert mix.sample_K.tolist() == pytest.approx(sample)

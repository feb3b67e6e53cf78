"""Dynamic batch loading's arithmetic (arXiv 2310.06694, Algorithm 1)."""

from math import log

import pytest
import torch

from mixalign.losses.excess import clip_mean
from mixalign.mixers.base import MixSignal
from mixalign.mixers.dynamic_batch import DynamicBatch

NAN = float("nan")


def play(mixer, *gaps):
    """The mixture after one update a row of mean gaps to the specialists, which Mixing clips as the mixer says."""
    mix, state = mixer.init(torch.ones(2))
    for step, gap in enumerate(gaps):
        excess_K = clip_mean(torch.tensor(gap, dtype=torch.float64), mixer.clip)
        mix, state = mixer.update(MixSignal(step, torch.ones(2), eval_excess_K=excess_K), state)
    return mix.sample_K.tolist()


@pytest.mark.parametrize(
    ("settings", "gaps", "sample"),
    [
        ({}, [[log(3), 0.0]], [0.75, 0.25]),
        ({}, [[log(3), 0.0], [log(3), 0.0]], [0.9, 0.1]),  # weights add up over validations
        ({}, [[log(3), -5.0]], [0.75, 0.25]),  # better than its target is as good as at it
        ({}, [[log(3), 0.0], [NAN, NAN]], [0.75, 0.25]),  # between two validations nothing moves
        ({"eta": 0.5}, [[log(9), 0.0]], [0.75, 0.25]),
        ({"floor": 0.4}, [[log(3), 0.0]], [0.65, 0.35]),
    ],
)
def test_weights(settings, gaps, sample):
    assert play(DynamicBatch(**settings), *gaps) == pytest.approx(sample)

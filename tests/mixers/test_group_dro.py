"""Group DRO's arithmetic, and what it has in common with AMA-R."""

from math import log

import pytest
import torch

from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.base import MixSignal
from mixalign.mixers.group_dro import GroupDRO


def test_weights_follow_the_raw_loss():
    """Sagawa et al., Algorithm 1: q_i <- q_i exp(eta loss_i), normalised: 3 : 1."""
    mixer = GroupDRO(eta=2.0)
    _, state = mixer.init(torch.ones(2))
    loss_K = torch.tensor([0.5 * log(3), 0.0], dtype=torch.float64)
    mix, _ = mixer.update(MixSignal(0, torch.ones(2), loss_K=loss_K), state)
    assert mix.loss_K.tolist() == pytest.approx([0.75, 0.25])
    assert mix.sample_K.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_is_ama_r_with_specialists_that_lose_nothing(floor):
    """With specialist losses of zero a loss, which is never negative, is its own clipped excess."""
    dro, ama = GroupDRO(eta=0.1, floor=floor), AMAR(eta=0.1, floor=floor)
    (_, dro_state), (_, ama_state) = dro.init(torch.ones(4)), ama.init(torch.ones(4))
    for step in range(20):
        loss_K = torch.rand(4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        loss_K[step % 8 :][:1] = torch.nan  # some tasks are absent at times
        signal = MixSignal(step, torch.ones(4), loss_K=loss_K, excess_K=(loss_K - 0).clamp_min(0))
        (mix, dro_state), (twin, ama_state) = dro.update(signal, dro_state), ama.update(signal, ama_state)
        assert torch.equal(mix.loss_K, twin.loss_K)
    assert mix.loss_K.std() > 0.01


def test_chases_noise_that_a_specialist_explains_away():
    """Task 0 loses .6 at best, task 1 loses .3 and could lose .1: excesses 0 and .2."""
    loss_K, excess_K = torch.tensor([0.6, 0.3]), torch.tensor([0.0, 0.2])
    heads = []
    for mixer in (GroupDRO(eta=0.1), AMAR(eta=0.1)):
        mix, state = mixer.init(torch.ones(2))
        for step in range(100):
            mix, state = mixer.update(MixSignal(step, torch.ones(2), loss_K=loss_K, excess_K=excess_K), state)
        heads.append(int(mix.loss_K.argmax()))
    assert heads == [0, 1]

"""GR-DPO's arithmetic (arXiv 2405.20304), as in the paper and as in its code."""

from math import log

import pytest
import torch

from mixalign.mixers.base import MixSignal
from mixalign.mixers.gr_dpo import GRDPO
from mixalign.mixers.group_dro import GroupDRO

NAN = float("nan")


def play(mixer, rows, *steps):
    """The mixture after one update for each (counts, mean losses)."""
    mix, state = mixer.init(torch.tensor(rows))
    for step, (count, loss) in enumerate(steps):
        signal = MixSignal(step, torch.tensor(count), loss_K=torch.tensor(loss, dtype=torch.float64))
        mix, state = mixer.update(signal, state)
    return mix


def test_weights_follow_the_mean_loss():
    """Algorithm 1: a_g proportional to exp(eta l_g), 3 : 1 whatever the sizes and counts."""
    mix = play(GRDPO(eta=2.0), [900.0, 100.0], ([1.0, 3.0], [0.5 * log(3), 0.0]))
    assert mix.loss_K.tolist() == pytest.approx([0.75, 0.25])
    assert mix.sample_K.tolist() == [0.5, 0.5]


def test_is_group_dro_by_default():
    loss = torch.rand(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    steps = [([4.0, 4.0, 4.0], row) for row in loss]
    assert play(GRDPO(eta=0.1), [1.0] * 3, *steps).loss_K.equal(play(GroupDRO(eta=0.1), [1.0] * 3, *steps).loss_K)


def test_size_corrected_sums():
    """N / N_g * count * mean: 400 / 300 * 3 * .3 = 1.2 and 400 / 100 * 1 * .5 = 2; with eta ln 2 / .8, odds 1 : 2."""
    mixer = GRDPO(eta=log(2) / 0.8, size_corrected=True)
    mix = play(mixer, [300.0, 100.0], ([3.0, 1.0], [0.3, 0.5]))
    assert mix.loss_K.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert mix.sample_K.tolist() == [0.75, 0.25], "the code shuffles the pooled rows"


def test_with_proportional_counts_the_code_is_the_paper_with_batch_size_times_eta():
    """Counts 6, 2, 4 of 60, 20 and 40 rows: N / N_g * count_g = 12, the size of the batch, for each task."""
    step = ([6.0, 2.0, 4.0], [0.7, 0.4, 0.1])
    code = play(GRDPO(eta=0.01, size_corrected=True), [60.0, 20.0, 40.0], step)
    assert code.loss_K.tolist() == pytest.approx(play(GRDPO(eta=0.12), [1.0] * 3, step).loss_K.tolist())


def test_an_absent_task_counts_zero_only_in_the_codes_sums():
    """Paper: nothing is known of it, and it keeps its third. Code: its sum is 0, as EXP3 has it: 2 : 1 : 1."""
    step = ([4.0, 0.0, 4.0], [log(2), NAN, 0.0])
    assert play(GRDPO(eta=1.0), [1.0] * 3, step).loss_K.tolist() == pytest.approx([4 / 9, 1 / 3, 2 / 9])
    code = play(GRDPO(eta=1 / 12, size_corrected=True), [1.0] * 3, step)  # 3 * 4 * ln 2 / 12
    assert code.loss_K.tolist() == pytest.approx([0.5, 0.25, 0.25])

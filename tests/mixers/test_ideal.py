"""IDEAL's volumes: the worked example of the paper's code, the bounds, and what uncertainty does."""

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.base import MixSignal
from mixalign.mixers.ideal import Ideal, relative_change

# numbers that github.com/ming-bot/IDEAL has typed into reweighting.py (HEAD 9438d0c), with m = 0.15
INFLUENCE = (6.58e-5, 7.744e-4, 1.307e-4, 1.926e-4, -4.43e-5)
BETA = (0.01275, 0.15, 0.02531, 0.03732, -0.00859)


def play(mixer, rows, *benefits, sure=None):
    """Volumes after one update a benefit."""
    _, state = mixer.init(torch.tensor(rows))
    for step, benefit in enumerate(benefits):
        benefit_K = torch.tensor(benefit)
        confidence_K = torch.ones(len(rows)) if sure is None else torch.tensor(sure)
        signal = MixSignal(step, torch.ones(len(rows)), benefit_K=benefit_K, confidence_K=confidence_K)
        mix, state = mixer.update(signal, state)
    return mix, state["volume_K"].tolist()


def test_the_worked_example_of_the_papers_code():
    rows = (10_000, 5_000, 333, 7, 20_001)
    beta_K = relative_change(torch.tensor(INFLUENCE, dtype=torch.float64), 0.15)
    assert beta_K.tolist() == pytest.approx(BETA, abs=2e-5)
    mix, volumes = play(Ideal(min_confidence=0.5), rows, INFLUENCE)
    assert volumes == [int(n * (1 + beta)) for n, beta in zip(rows, beta_K.tolist(), strict=True)]
    assert mix.sample_K.tolist() == pytest.approx([v / sum(volumes) for v in volumes])


def test_volumes_compound_over_rounds_and_m_may_decay():
    assert play(Ideal(), (1000, 1000), (1.0, -1.0), (1.0, -1.0))[1] == [1322, 722]  # 1000 * 1.15^2, 850 * .85
    assert play(Ideal(decay=0.5), (1000, 1000), (1.0, -1.0), (1.0, -1.0))[1] == [1236, 786]  # then 7.5 %


def test_an_uncertain_sign_leaves_a_volume_alone_and_sets_the_scale():
    """Else a small benefit would have the largest change because large ones are uncertain."""
    assert play(Ideal(), (1000, 1000, 1000), (10.0, -8.0, 0.01), sure=(0.89, 0.89, 0.95))[1] == [1000, 1000, 1000]
    assert play(Ideal(), (1000, 1000, 1000), (9.0, 3.0, -1.5), sure=(0.6, 0.95, 0.99))[1] == [1000, 1050, 975]
    assert play(Ideal(), (1000, 1000), (9.0, 1.0), sure=(0.5, 0.5))[1] == [1000, 1000]
    assert play(Ideal(), (1000, 1000), (float("nan"), 1.0))[1] == [1000, 1150]


@pytest.mark.parametrize(
    ("settings", "rows", "volumes"),
    [
        ({"m": 0.9}, (1000, 1000, 1), [4000, 500, 1]),  # cap of four repeats, floor of half, never an empty task
        ({"m": 0.9, "floor": 0.0, "cap": 100.0}, (1000, 1000, 1), [6859, 1, 1]),
        ({"m": 0.2, "equal_total": True}, (1000, 1000, 1000), [1745, 517, 737]),
    ],
)
def test_bounds(settings, rows, volumes):
    benefits = [(1.0, -1.0, -0.5)] * 3
    assert play(Ideal(**settings), rows, *benefits)[1] == volumes


def test_a_negative_m_is_refused():
    with pytest.raises(MixalignError, match=r"`mixer\.m` is -0\.15, but must be a number from 0 to 1"):
        Ideal(m=-0.15)

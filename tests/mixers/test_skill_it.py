"""Skill-It's arithmetic (arXiv 2307.14430, Algorithm 1)."""

from math import e, log

import pytest
import torch

from mixalign.errors import MixalignError
from mixalign.mixers.base import MixSignal
from mixalign.mixers.skill_it import SkillIt

NAN = float("nan")


def play(mixer, *losses):
    """The mixture after one update a row of validation losses."""
    mix, state = mixer.init(torch.ones(2))
    for step, loss in enumerate(losses):
        loss_K = torch.tensor(loss, dtype=torch.float64)
        mix, state = mixer.update(MixSignal(step, torch.ones(2), eval_loss_K=loss_K), state)
    return mix.sample_K.tolist()


@pytest.mark.parametrize(
    ("settings", "losses", "sample"),
    [
        ({}, [[log(3), 0.0]], [0.75, 0.25]),
        ({"eta": 0.5}, [[log(9), 0.0]], [0.75, 0.25]),
        ({}, [[log(3), 0.0], [log(3), 0.0]], [0.9, 0.1]),  # the window adds up
        ({"window": 1}, [[log(3), 0.0], [log(3), 0.0]], [0.75, 0.25]),
        ({"window": 2}, [[9.0, 0.0], [log(3), 0.0], [0.0, 0.0]], [0.75, 0.25]),  # forgets the first
        # A L = (ln 3 * 1 + 0, ln 3 * 0.5 + 0): odds 3 : sqrt 3. Task 1 is drawn for what it does for task 0
        ({"graph": [[1, 0], [0.5, 1]]}, [[log(3), 0.0]], [0.633975, 0.366025]),
        ({}, [[log(3), 0.0], [NAN, NAN]], [0.75, 0.25]),  # between two validations nothing moves
        ({}, [[log(3), 0.0], [NAN, NAN], [log(3), 0.0]], [0.9, 0.1]),  # nor does the window
    ],
)
def test_weights(settings, losses, sample):
    assert play(SkillIt(**{"eta": 1.0} | settings), *losses) == pytest.approx(sample, abs=1e-6)


def test_begins_with_the_tasks_that_help_most():
    """exp(eta sum_j A_ij): rows sum to 2 and 1, odds e."""
    assert play(SkillIt(eta=1.0, graph=[[1, 1], [0, 1]])) == pytest.approx([e / (1 + e), 1 / (1 + e)])


@pytest.mark.parametrize("graph", [[[1, 0]], [[1, 0], [1]], [["a"]], [], [[1, NAN], [0, 1]]])
def test_a_graph_is_square(graph):
    with pytest.raises(MixalignError, match=r"`mixer.graph` is"):
        SkillIt(graph=graph)


def test_a_graph_of_other_tasks_is_refused():
    with pytest.raises(MixalignError, match=r"`mixer.graph` has 1 rows, but there are 2 tasks"):
        SkillIt(graph=[[1]]).init(torch.ones(2))

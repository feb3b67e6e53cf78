"""Which paths of the weights deserve a warning."""

import pytest
import torch

from mixalign.mixers.diagnostics import Moment, alternating, diverging

TASKS = ["maths", "chat"]
NAN = float("nan")


def path(*moments):
    """(weight of maths, excess of maths) of each update."""
    return [Moment(torch.tensor([a, 1 - a]), torch.tensor([e, 0.1])) for a, e in moments]


FLIPPING = path(*[(0.9, 0.2), (0.1, 0.2)] * 10)


@pytest.mark.parametrize(
    ("moments", "warns"),
    [
        (FLIPPING, True),
        (path(*[(0.9, 0.2)] * 20), False),  # one task leads all along
        (path(*[(0.9, 0.2)] * 10, *[(0.1, 0.2)] * 10), False),  # one change is learning
        (path(*[(0.52, 0.2), (0.48, 0.2)] * 10), False),  # over the share of .6 nobody leads
    ],
)
def test_alternating(moments, warns):
    assert (alternating(moments, TASKS, share=0.6) is not None) == warns


def test_alternating_says_who_and_what_to_do():
    text = alternating(FLIPPING, TASKS)
    assert "19 times in 20 updates (chat, maths)" in text
    assert "mixer.eta" in text


@pytest.mark.parametrize(
    ("moments", "warns"),
    [
        (path(*[(0.7, 0.2)] * 10, *[(0.9, 0.4)] * 10), True),  # twice the excess under .9 of the mixture
        (path(*[(0.7, 0.2)] * 10, *[(0.9, 0.24)] * 10), False),  # grew by a fifth: noise
        (path(*[(0.7, 0.4)] * 10, *[(0.9, 0.2)] * 10), False),  # it learns
        (path(*[(0.7, 0.2)] * 10, *[(0.55, 0.4)] * 10), False),  # does not hold the mixture
        (path(*[(0.7, 0.2)] * 10, *[(0.9, 0.4)] * 9, (0.9, NAN)), True),  # absent once: the rest counts
        (path(*[(0.7, NAN)] * 10, *[(0.9, 0.4)] * 10), False),  # nothing to compare with
    ],
)
def test_diverging(moments, warns):
    assert (diverging(moments, TASKS) is not None) == warns


def test_diverging_says_who_and_what_to_do():
    text = diverging(path(*[(0.7, 0.2)] * 10, *[(0.9, 0.4)] * 10), TASKS)
    assert "`maths` holds 90% of the mixture" in text
    assert "mixer.eta" in text

"""Where excess is clipped: a task of three samples with gaps -.3, .1 and .5 to its specialist."""

import pytest
import torch

from mixalign.losses.excess import CLIPS, clip_mean, clip_sample

GAPS = [-0.3, 0.1, 0.5]


def excess(gaps, clip):
    return clip_mean(clip_sample(torch.tensor(gaps), clip).mean(), clip).item()


@pytest.mark.parametrize(
    ("clip", "mixed", "better"),  # of GAPS, and of their negatives
    [
        ("sample", 0.2, 0.1),  # (0 + .1 + .5) / 3; (.3 + 0 + 0) / 3
        ("task", 0.1, 0.0),  # max(.3 / 3, 0); max(-.1, 0)
        ("none", 0.1, -0.1),
    ],
)
def test_excess_of_a_task(clip, mixed, better):
    assert excess(GAPS, clip) == pytest.approx(mixed)
    assert excess([-g for g in GAPS], clip) == pytest.approx(better)


def test_a_row_covers_every_clip():
    assert {*CLIPS} == {"sample", "task", "none"}


def test_samples_better_than_the_specialist_have_no_gradient():
    gap_B = torch.tensor(GAPS, requires_grad=True)
    clip_sample(gap_B, "sample").sum().backward()
    assert gap_B.grad.tolist() == [0.0, 1.0, 1.0]


def test_nan_stays_nan():
    """A task without a sample must not look like one without excess."""
    for clip in CLIPS:
        assert clip_mean(torch.tensor([float("nan")]), clip).isnan().all()

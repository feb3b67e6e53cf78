"""Excess loss: how much worse than the task's specialist (AutoMixAlign, arXiv 2506.00569)."""

from typing import Literal, get_args

from torch import Tensor

__all__ = ["CLIPS", "Clip", "clip_mean", "clip_sample"]

Clip = Literal["sample", "task", "none"]
CLIPS: tuple[str, ...] = get_args(Clip)


def clip_sample(gap_B: Tensor, clip: Clip) -> Tensor:
    """Excess of each sample (B,): max(gap, 0) when clipping by sample, else the gap itself.

    Its gradient is zero where the sample is already as good as the specialist's.
    """
    return gap_B.clamp_min(0) if clip == "sample" else gap_B


def clip_mean(excess_K: Tensor, clip: Clip) -> Tensor:
    """Excess of each task (K,) from the mean over its samples: clipped here when clipping by task."""
    return excess_K.clamp_min(0) if clip == "task" else excess_K

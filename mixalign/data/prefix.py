"""How far two sequences are the same from their beginning; without torch, as workers import this file."""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["common_ids", "common_prefix"]


def common_prefix(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Length of the longest common prefix of two strings or two lists, by bisection over slices."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def common_ids(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the longest common prefix of two arrays of token ids."""
    size = min(len(one), len(other))
    differs = one[:size] != other[:size]
    return int(differs.argmax()) if differs.any() else size

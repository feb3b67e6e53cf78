"""Random permutations that need no memory: any entry of a shuffled table in constant time."""

import numpy as np

__all__ = ["permute"]

NUM_ROUNDS = 6


def permute(index_B: np.ndarray, size_B: np.ndarray, key_B: np.ndarray) -> np.ndarray:
    """The entries `index` of the permutations of range(size) that the keys name, (B,), int64.

    A Feistel network over the next power of four is a bijection; walking along it until the value is below
    `size` keeps it one (Black and Rogaway 2002). Entries may differ in size and key. A table of 100 million
    rows therefore costs the same as one of a hundred, and a sampler's place in it is one number.

    Args:
        index_B: positions, each in [0, size).
        size_B: rows of each entry's table, at least 1.
        key_B: uint64, one permutation each.
    """
    half_B = (np.maximum(np.ceil(np.log2(size_B)).astype(np.int64), 1) + 1) // 2
    value_B = index_B.astype(np.uint64)
    outside = np.ones(len(value_B), bool)
    while outside.any():
        value_B[outside] = _feistel(value_B[outside], half_B[outside].astype(np.uint64), key_B[outside])
        outside = value_B >= size_B.astype(np.uint64)
    return value_B.astype(np.int64)


def _feistel(value_B: np.ndarray, half_B: np.ndarray, key_B: np.ndarray) -> np.ndarray:
    mask_B = (np.uint64(1) << half_B) - np.uint64(1)
    left_B, right_B = value_B >> half_B, value_B & mask_B
    for turn in range(1, NUM_ROUNDS + 1):
        left_B, right_B = right_B, left_B ^ (mix_bits(right_B + key_B * np.uint64(turn)) & mask_B)
    return (left_B << half_B) | right_B


def mix_bits(value_B: np.ndarray) -> np.ndarray:
    """Scrambles 64-bit integers (the finaliser of SplitMix64, Steele et al. 2014); wraps around on purpose."""
    value_B = value_B + np.uint64(0x9E3779B97F4A7C15)
    value_B = (value_B ^ (value_B >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value_B = (value_B ^ (value_B >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value_B ^ (value_B >> np.uint64(31))

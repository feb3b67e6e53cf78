"""Random permutations that need no memory: any entry of a shuffled table in constant time."""

import numpy as np

__all__ = ["mix_bits", "permute"]

NUM_ROUNDS = 6


def permute(index_B: np.ndarray, size_B: np.ndarray, key_B: np.ndarray) -> np.ndarray:
    """The entries `index` of the permutations of range(size) that the keys name, (B,), int64.

    A Feistel network over a rectangle of at least `size` cells, about square, is a bijection; walking along it until
    the value is below `size` keeps it one (the generalised Feistel cipher of Black and Rogaway 2002). Hardly any
    entry walks, because the rectangle has less than one row of cells too many. Entries may differ in size and key.
    A table of 100 million rows therefore costs the same as one of a hundred, and a sampler's place in it is one
    number.

    Args:
        index_B: positions, each in [0, size).
        size_B: rows of each entry's table, at least 1 and below 2**62.
        key_B: uint64, one permutation each.
    """
    size_B = size_B.astype(np.uint64)
    height_B = np.ceil(np.sqrt(size_B)).astype(np.uint64)
    width_B = (size_B + height_B - np.uint64(1)) // height_B
    value_B = _feistel(index_B.astype(np.uint64), height_B, width_B, key_B)
    while len(out := np.flatnonzero(value_B >= size_B)):
        value_B[out] = _feistel(value_B[out], height_B[out], width_B[out], key_B[out])
    return value_B.astype(np.int64)


def _feistel(value_B: np.ndarray, height_B: np.ndarray, width_B: np.ndarray, key_B: np.ndarray) -> np.ndarray:
    """Moves each cell along its column and its row in turn, by a distance that depends on where it stays."""
    row_B, column_B = np.divmod(value_B, width_B)
    for turn in range(1, NUM_ROUNDS + 1, 2):
        row_B = (row_B + _distance(column_B, key_B, turn)) % height_B
        column_B = (column_B + _distance(row_B, key_B, turn + 1)) % width_B
    cell_B: np.ndarray = row_B * width_B + column_B
    return cell_B


def _distance(place_B: np.ndarray, key_B: np.ndarray, turn: int) -> np.ndarray:
    distance_B: np.ndarray = mix_bits(place_B + key_B * np.uint64(turn)) >> np.uint64(32)
    return distance_B


def mix_bits(value_B: np.ndarray) -> np.ndarray:
    """Scrambles 64-bit integers (the finaliser of SplitMix64, Steele et al. 2014); wraps around on purpose."""
    value_B = value_B + np.uint64(0x9E3779B97F4A7C15)
    value_B = (value_B ^ (value_B >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value_B = (value_B ^ (value_B >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed_B: np.ndarray = value_B ^ (value_B >> np.uint64(31))
    return mixed_B

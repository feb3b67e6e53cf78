"""`permute` is a permutation for every size and key, and looks random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.data.batches.shuffle import permute

SIZES = st.integers(1, 500)
KEYS = st.integers(0, 2**64 - 1)
quick = settings(max_examples=200, deadline=None, derandomize=True)


def permutations(size, keys):
    """One row a key, in a single call: entries of a batch are independent."""
    keys = np.array(keys, np.uint64)
    index = np.tile(np.arange(size), len(keys))
    return permute(index, np.full(len(index), size), np.repeat(keys, size)).reshape(-1, size)


def permutation(size, key):
    return permutations(size, [key])[0]


@quick
@given(SIZES, KEYS)
def test_is_a_bijection(size, key):
    assert sorted(permutation(size, key)) == list(range(size))


@quick
@given(SIZES, KEYS)
def test_depends_on_nothing_but_index_size_and_key(size, key):
    """An entry is the same alone and among entries of other sizes and keys."""
    alone = permute(np.array([size - 1]), np.array([size]), np.array([key], np.uint64))
    mixed = permute(np.array([3, size - 1]), np.array([5, size]), np.array([~np.uint64(key), key], np.uint64))
    assert alone[0] == mixed[1] == permutation(size, key)[size - 1]
    assert alone.dtype == np.int64


@pytest.mark.parametrize("size", [10, 64, 65, 500])
def test_keys_give_different_permutations(size):
    """10 rows have 3.6 million orders, so even 200 keys should hardly ever agree."""
    assert len({tuple(order) for order in permutations(size, range(200))}) >= 199


@pytest.mark.parametrize("size", [3, 4, 7, 16, 17])
def test_every_place_is_about_equally_likely(size):
    """Chi-square of where each row goes, over 2000 keys; the mean of its cells should be near 1."""
    keys = 2000
    table = np.zeros((size, size))
    for order in permutations(size, range(keys)):
        table[np.arange(size), order] += 1
    expected = keys / size
    chi_square = ((table - expected) ** 2 / expected).sum() / (size - 1) ** 2
    assert 0.5 < chi_square < 2, table


def test_neighbours_are_torn_apart():
    """The mean step between neighbours of a random order of n rows is n / 3."""
    steps = np.abs(np.diff(permutations(300, range(50)), axis=1))
    assert steps.mean() == pytest.approx(100, rel=0.05)


def test_tables_of_any_size_cost_the_same():
    place = permute(np.array([0, 1]), np.array([10**12, 10**12]), np.array([5, 5], np.uint64))
    assert ((place >= 0) & (place < 10**12)).all()
    assert place[0] != place[1]

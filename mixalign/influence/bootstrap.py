"""How sure the sign of a score is, from products of rows' gradients.

K domains, R reference tables, M rows of a table, X resamples.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["resample", "sign_confidence"]


def resample(
    domain_M: Sequence[np.ndarray],
    reference_MK: Sequence[np.ndarray],
    reference_weight_R: np.ndarray,
    resamples: int,
    seed: int,
) -> np.ndarray:
    """`g_ref' H^-1 g_j` of each domain j on resampled rows (X, K), to first order.

    A product of two means moves with both: `v . (g_j* - g_j) + w_j . (g_ref* - g_ref)` for v = H^-1 g_ref and
    w_j = H^-1 g_j. Left out are the product of both changes, which is of second order, and the curvature's own noise.

    Args:
        domain_M: v . g_n of the rows of each domain.
        reference_MK: w_j . g_m of the rows of each reference table, for every domain.
        reference_weight_R: of the tables' means in the reference loss, summing to 1.
    """
    rng = np.random.default_rng(seed)
    score_K = np.array([value_M.mean() for value_M in domain_M])
    out_XK = np.zeros((resamples, len(score_K)))
    for x in range(resamples):
        own_K = [_again(value_M, rng) for value_M in domain_M]
        of_reference_RK = np.stack([_again(value_MK, rng) for value_MK in reference_MK])
        out_XK[x] = own_K + reference_weight_R @ of_reference_RK - score_K
    return out_XK


def _again(value_M: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean over as many rows, drawn with replacement."""
    return value_M[rng.integers(len(value_M), size=len(value_M))].mean(0)


def sign_confidence(score_K: np.ndarray, resampled_XK: np.ndarray) -> np.ndarray:
    """Share of resamples that agree with each score's sign (K,), at least 0.5: no more than a coin knows."""
    return np.maximum((np.sign(resampled_XK) == np.sign(score_K)).mean(0), 0.5)

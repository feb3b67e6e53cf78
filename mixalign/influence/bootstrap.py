"""How sure the sign of a score is, from products of rows' gradients.

K domains, R target tables, M rows of a table, X resamples.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["resample", "sign_confidence"]


def resample(
    domain_M: Sequence[np.ndarray],
    target_MK: Sequence[np.ndarray],
    target_weight_R: np.ndarray,
    resamples: int,
    seed: int,
) -> np.ndarray:
    """`g_target' H^-1 g_j` of each domain j on resampled rows (X, K), to first order.

    A product of two means moves with both: `v . (g_j* - g_j) + w_j . (g_target* - g_target)` for v = H^-1 g_target and
    w_j = H^-1 g_j. Left out are the product of both changes, which is of second order, and the curvature's own noise.

    Args:
        domain_M: v . g_n of the rows of each domain.
        target_MK: w_j . g_m of the rows of each target table, for every domain.
        target_weight_R: of the tables' means in the target loss, summing to 1.
    """
    rng = np.random.default_rng(seed)
    score_K = np.array([value_M.mean() for value_M in domain_M])
    out_XK = np.zeros((resamples, len(score_K)))
    for x in range(resamples):
        domain_K = [_resampled_mean(value_M, rng) for value_M in domain_M]
        of_target_RK = np.stack([_resampled_mean(value_MK, rng) for value_MK in target_MK])
        out_XK[x] = domain_K + target_weight_R @ of_target_RK - score_K
    return out_XK


def _resampled_mean(value_M: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean over as many rows, drawn with replacement."""
    mean: np.ndarray = value_M[rng.integers(len(value_M), size=len(value_M))].mean(0)
    return mean


def sign_confidence(score_K: np.ndarray, resampled_XK: np.ndarray) -> np.ndarray:
    """Share of resamples that agree with each score's sign (K,), at least 0.5: no more than a coin knows."""
    share_K: np.ndarray = np.maximum((np.sign(resampled_XK) == np.sign(score_K)).mean(0), 0.5)
    return share_K

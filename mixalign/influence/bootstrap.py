"""How sure the sign of a score is, from products of rows' gradients.

K domains, R target tables, X resamples; M rows of a table whose products are known, of more that its mean is of.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["resample", "sign_confidence"]


def resample(
    score_K: np.ndarray,
    domain_M: Sequence[np.ndarray],
    target_MK: Sequence[np.ndarray],
    rows_T: Sequence[int],
    target_weight_R: np.ndarray,
    resamples: int,
    seed: int,
) -> np.ndarray:
    """`g_target' H^-1 g_j` of each domain j on resampled rows (X, K), to first order.

    A resample has as many rows as the means are of, drawn from those whose products are known.

    A product of two means moves with both: `v . (g_j* - g_j) + w_j . (g_target* - g_target)` for v = H^-1 g_target and
    w_j = H^-1 g_j. Left out are the product of both changes, which is of second order, and the curvature's own noise.

    Args:
        score_K: the products of the means over all rows.
        domain_M: v . g_n of rows of each domain.
        target_MK: w_j . g_m of rows of each target table, for every domain.
        rows_T: rows that each mean is of: the domains', then the target tables'.
        target_weight_R: of the tables' means in the target loss, summing to 1.
    """
    rng = np.random.default_rng(seed)
    num = len(score_K)
    out_XK = np.zeros((resamples, num))
    for x in range(resamples):
        domain_K = [_change(value_M, rows, rng) for value_M, rows in zip(domain_M, rows_T[:num], strict=True)]
        targets = zip(target_MK, rows_T[num:], strict=True)
        target_RK = np.stack([_change(value_MK, rows, rng) for value_MK, rows in targets])
        out_XK[x] = score_K + domain_K + target_weight_R @ target_RK
    return out_XK


def _change(value_M: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    """What the mean over so many rows, drawn with replacement, has more than the mean of all."""
    change: np.ndarray = value_M[rng.integers(len(value_M), size=rows)].mean(0) - value_M.mean(0)
    return change


def sign_confidence(score_K: np.ndarray, resampled_XK: np.ndarray) -> np.ndarray:
    """Share of resamples that agree with each score's sign (K,), at least 0.5: no more than a coin knows."""
    share_K: np.ndarray = np.maximum((np.sign(resampled_XK) == np.sign(score_K)).mean(0), 0.5)
    return share_K

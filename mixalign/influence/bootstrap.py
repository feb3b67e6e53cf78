"""How sure the sign of a score is, from products of rows' gradients.

K domains, R target tables, X resamples; F rows of a table whose products are known, of more that its mean is of.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Known", "resample", "sign_confidence"]


class Known(NamedTuple):
    """Products of some rows of a table.

    Attributes:
        product_F: of each, a number or a vector.
        share_F: of all rows, those that each stands for; they sum to 1.
        rows: that the table's mean is of.
    """

    product_F: np.ndarray
    share_F: np.ndarray
    rows: int


def resample(
    score_K: np.ndarray,
    domains: Sequence[Known],
    targets: Sequence[Known],
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
        domains: v . g_n of rows of each domain.
        targets: w_j . g_m of rows of each target table, for every domain.
        target_weight_R: of the tables' means in the target loss, summing to 1.
    """
    rng = np.random.default_rng(seed)
    domain_KX = np.stack([_changes(known, resamples, rng) for known in domains])
    target_RXK = np.stack([_changes(known, resamples, rng) for known in targets])
    out_XK: np.ndarray = score_K + domain_KX.T + np.tensordot(target_weight_R, target_RXK, 1)
    return out_XK


def _changes(known: Known, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """What the means over rows drawn with replacement have more than the mean of all, (X,) or (X, K)."""
    number_XF = rng.multinomial(known.rows, known.share_F, resamples)
    change: np.ndarray = (number_XF / known.rows - known.share_F) @ known.product_F
    return change


def sign_confidence(score_K: np.ndarray, resampled_XK: np.ndarray) -> np.ndarray:
    """Share of resamples that agree with each score's sign (K,), at least 0.5: no more than a coin knows."""
    share_K: np.ndarray = np.maximum((np.sign(resampled_XK) == np.sign(score_K)).mean(0), 0.5)
    return share_K

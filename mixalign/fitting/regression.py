"""Regressions from mixtures to what runs on them ended with: ridge regression and boosted trees.

Suffixes: `K` tasks, `N` runs, `M` any mixtures, `F` features, `Q` quantities that are predicted, `L` penalties. All
tensors are float64.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mixalign.errors import MixalignError

__all__ = ["REGRESSIONS", "Predictor", "Regression", "average", "best_ridge", "boosted_trees", "linear", "quadratic"]

Predictor = Callable[[Tensor], Tensor]
"""Mixtures (M, K) -> what is predicted of them (M, Q)."""
Regression = Callable[[Tensor, Tensor], Predictor]
"""Mixtures (N, K) and what was measured of them (N, Q) -> a predictor."""

PENALTIES_L = 10 ** torch.linspace(-10, 2, 49, dtype=torch.float64)  # times the largest squared singular value


def linear(weight_NK: Tensor, loss_NQ: Tensor) -> Predictor:
    """Ridge regression on the weights, the paper's linear fit; each quantity has the penalty that is best for it."""
    return _ridge(_weights, weight_NK, loss_NQ)[0]


def quadratic(weight_NK: Tensor, loss_NQ: Tensor) -> Predictor:
    """The same on all products of two weights: not the paper's. It can have its minimum between the runs."""
    return _ridge(_products, weight_NK, loss_NQ)[0]


def best_ridge(weight_NK: Tensor, loss_NQ: Tensor) -> Predictor:
    """For each quantity, `linear` or `quadratic`: the one with the lower leave-one-out error."""
    (line, error_Q), (curve, curve_error_Q) = (_ridge(f, weight_NK, loss_NQ) for f in (_weights, _products))
    return lambda weight_MK: torch.where(curve_error_Q < error_Q, curve(weight_MK), line(weight_MK))


def _weights(weight_MK: Tensor) -> Tensor:
    return weight_MK


def _products(weight_MK: Tensor) -> Tensor:
    """(M, K (K + 1) / 2); as the weights sum to 1, every linear function is one of these as well."""
    first, second = torch.triu_indices(weight_MK.shape[1], weight_MK.shape[1])
    return weight_MK[:, first] * weight_MK[:, second]


def _ridge(features: Callable[[Tensor], Tensor], weight_NK: Tensor, loss_NQ: Tensor) -> tuple[Predictor, Tensor]:
    """Ridge regression with a free constant, and its mean squared leave-one-out error (Q,).

    With singular values s and left vectors U of the centred features, the fit at penalty l is `U diag(s^2 / (s^2 + l))
    U' y`, and the error of run n, had it been left out, is its residual over `1 - h_n`, where h_n is the n-th diagonal
    entry of the matrix that maps y to the fit (Allen's PRESS).
    """
    mean_F, mean_Q = features(weight_NK).mean(0), loss_NQ.mean(0)
    u_NF, s_F, v_FF = torch.linalg.svd(features(weight_NK) - mean_F, full_matrices=False)
    penalty_L = PENALTIES_L * s_F[0].square().clamp_min(torch.finfo(torch.float64).tiny)
    keep_LF = s_F.square() / (s_F.square() + penalty_L[:, None])
    y_FQ = u_NF.T @ (loss_NQ - mean_Q)
    fit_LNQ = torch.einsum("nf,lf,fq->lnq", u_NF, keep_LF, y_FQ)
    h_LN = 1 / len(loss_NQ) + keep_LF @ u_NF.square().T
    error_LQ = ((loss_NQ - mean_Q - fit_LNQ) / (1 - h_LN)[..., None]).square().mean(1)
    best_Q = error_LQ.nan_to_num(torch.inf).argmin(0)
    slope_FQ = v_FF.T @ (s_F[:, None] / (s_F.square()[:, None] + penalty_L[best_Q]) * y_FQ)

    def predict(weight_MK: Tensor) -> Tensor:
        guess_MQ: Tensor = mean_Q + (features(weight_MK) - mean_F) @ slope_FQ
        return guess_MQ

    return predict, error_LQ.gather(0, best_Q[None])[0]


def boosted_trees(weight_NK: Tensor, loss_NQ: Tensor) -> Predictor:
    """Gradient-boosted trees with the settings of the paper's code: 1000 of them, rate 0.01.

    That code stops early by the loss of runs that it then reports; here no run is kept aside, and all 1000 are used.
    With fewer than 200 runs leaves may hold fewer than the usual 20, as else the fit would be constant.

    Raises:
        MixalignError: when LightGBM is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise MixalignError(
            f"The regression `lightgbm` needs LightGBM, which is missing ({error}): `pip install 'mixalign[regmix]'`. "
            "Or take --regression best."
        ) from error
    leaf = min(20, max(1, len(weight_NK) // 10))
    settings = {"objective": "regression", "learning_rate": 0.01, "seed": 42, "verbosity": -1, "num_threads": 1}
    settings |= {"min_data_in_leaf": leaf, "min_data_in_bin": min(3, leaf), "deterministic": True}
    trees = [
        lightgbm.train(settings, lightgbm.Dataset(weight_NK.numpy(), loss_N.numpy()), num_boost_round=1000)
        for loss_N in loss_NQ.T
    ]
    return lambda weight_MK: torch.stack([torch.tensor(tree.predict(weight_MK.numpy())) for tree in trees], 1)


def average(weight_NK: Tensor, loss_NQ: Tensor) -> Predictor:
    """The mean whatever the mixture: what a regression has to beat."""
    return lambda weight_MK: loss_NQ.mean(0).expand(len(weight_MK), -1)


REGRESSIONS: dict[str, Regression] = {
    "best": best_ridge,
    "linear": linear,
    "quadratic": quadratic,
    "lightgbm": boosted_trees,
}

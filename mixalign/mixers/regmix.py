"""RegMix: a regression from the mixture to the tasks' losses, and the mixture that it likes best (arXiv 2407.01492).

Suffixes: `K` tasks, `N` runs, `M` any mixtures, `F` features, `Q` quantities that are predicted, `L` penalties, `J`
runs whose mixtures are averaged. All tensors are float64.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "REGRESSIONS",
    "Fit",
    "Predict",
    "Quality",
    "average",
    "left_out",
    "linear",
    "quadratic",
    "quality",
    "search",
]

Predict = Callable[[Tensor], Tensor]
"""Mixtures (M, K) -> what is predicted of them (M, Q)."""
Fit = Callable[[Tensor, Tensor], Predict]
"""Mixtures (N, K) and what was measured of them (N, Q) -> a predictor."""

PENALTIES_L = 10 ** torch.linspace(-10, 2, 49, dtype=torch.float64)  # times the largest squared singular value
CHUNK = 4096  # mixtures that are predicted together


@dataclass(frozen=True)
class Quality:
    """How well runs are predicted by the others.

    Attributes:
        r2_Q: share of the squared error that is saved against predicting each run by the mean of the others; below 0
            the prediction is worse than that mean.
        spearman_Q: correlation of the ranks of prediction and measurement; nan where either is constant.
    """

    r2_Q: Tensor
    spearman_Q: Tensor


def linear(weight_NK: Tensor, loss_NQ: Tensor) -> Predict:
    """Ridge regression on the weights, the paper's linear fit; each quantity has the penalty that is best for it."""
    return _ridge(_weights, weight_NK, loss_NQ)[0]


def quadratic(weight_NK: Tensor, loss_NQ: Tensor) -> Predict:
    """The same on all products of two weights: not the paper's. It can have its minimum between the runs."""
    return _ridge(_products, weight_NK, loss_NQ)[0]


def best_ridge(weight_NK: Tensor, loss_NQ: Tensor) -> Predict:
    """For each quantity, `linear` or `quadratic`: the one with the lower leave-one-out error."""
    (line, error_Q), (curve, curve_error_Q) = (_ridge(f, weight_NK, loss_NQ) for f in (_weights, _products))
    return lambda weight_MK: torch.where(curve_error_Q < error_Q, curve(weight_MK), line(weight_MK))


REGRESSIONS: dict[str, Fit] = {"best": best_ridge, "linear": linear, "quadratic": quadratic}


def _weights(weight_MK: Tensor) -> Tensor:
    return weight_MK


def _products(weight_MK: Tensor) -> Tensor:
    """(M, K (K + 1) / 2); as the weights sum to 1, every linear function is one of these as well."""
    first, second = torch.triu_indices(weight_MK.shape[1], weight_MK.shape[1])
    return weight_MK[:, first] * weight_MK[:, second]


def _ridge(features: Callable[[Tensor], Tensor], weight_NK: Tensor, loss_NQ: Tensor) -> tuple[Predict, Tensor]:
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
        return mean_Q + (features(weight_MK) - mean_F) @ slope_FQ

    return predict, error_LQ.gather(0, best_Q[None])[0]


def left_out(fit: Fit, weight_NK: Tensor, loss_NQ: Tensor, folds: int | None = None) -> Tensor:
    """Every run (N, Q) as predicted from those of other mixtures; what the fit chooses for itself, it chooses anew.

    Args:
        folds: how many times to fit; None: once for each mixture.
    """
    _, group_N = weight_NK.round(decimals=9).unique(dim=0, return_inverse=True)
    fold_N = group_N % (folds or len(group_N))
    predicted_NQ = torch.empty_like(loss_NQ)
    for fold in fold_N.unique():
        own_N = fold_N == fold
        predicted_NQ[own_N] = fit(weight_NK[~own_N], loss_NQ[~own_N])(weight_NK[own_N])
    return predicted_NQ


def quality(predicted_NQ: Tensor, loss_NQ: Tensor, others_NQ: Tensor) -> Quality:
    """Of predictions of runs that were left out; `others_NQ`: the mean of the other runs, from `left_out(average)`."""
    saved_Q = 1 - (predicted_NQ - loss_NQ).square().sum(0) / (others_NQ - loss_NQ).square().sum(0)
    ranks = torch.stack([_ranks(predicted_NQ), _ranks(loss_NQ)])
    a_NQ, b_NQ = ranks - ranks.mean(1, keepdim=True)
    return Quality(saved_Q, (a_NQ * b_NQ).sum(0) / (a_NQ.square().sum(0) * b_NQ.square().sum(0)).sqrt())


def average(weight_NK: Tensor, loss_NQ: Tensor) -> Predict:
    """The mean whatever the mixture: what a regression has to beat."""
    return lambda weight_MK: loss_NQ.mean(0).expand(len(weight_MK), -1)


def _ranks(value_NQ: Tensor) -> Tensor:
    """Ranks within each column; equal values share the mean of theirs."""
    below_NQ = (value_NQ[None] < value_NQ[:, None]).sum(1)
    equal_NQ = (value_NQ[None] == value_NQ[:, None]).sum(1)
    return below_NQ + (equal_NQ.double() - 1) / 2


def search(
    predict: Predict,
    target: Callable[[Tensor], Tensor],
    weight_NK: Tensor,
    *,
    candidates: int = 100_000,
    top: int = 128,
    seed: int = 0,
) -> Tensor:
    """The mean of the `top` mixtures with the lowest predicted target (K,), as in the paper's code.

    Candidates are random averages of at most K tried mixtures, and so is what comes out: nothing is predicted outside
    of their convex hull, any point of which is such an average (Caratheodory). The paper's code draws candidates from
    a Dirichlet distribution around the prior, also where no run is near.

    Args:
        target: predictions (M, Q) -> what is to be low (M,).
    """
    rng = torch.Generator().manual_seed(seed)
    sizes = [min(CHUNK, candidates - start) for start in range(0, candidates, CHUNK)]
    drawn_MK = torch.cat([_averages(weight_NK, size, rng) for size in sizes])
    value_M = torch.cat([target(predict(chunk_MK)) for chunk_MK in drawn_MK.split(CHUNK)])
    return drawn_MK[value_M.argsort(stable=True)[:top]].mean(0)


def _averages(weight_NK: Tensor, number: int, rng: torch.Generator) -> Tensor:
    """Random averages (number, K) of two to K of the mixtures, evenly over numbers and over weights."""
    num_runs, num_tasks = weight_NK.shape
    most = max(2, num_tasks)
    run_MJ = torch.randint(num_runs, (number, most), generator=rng)
    part_MJ = -torch.rand((number, most), generator=rng, dtype=torch.float64).clamp_min(1e-300).log()
    size_M1 = torch.randint(2, most + 1, (number, 1), generator=rng)
    part_MJ = part_MJ * (torch.arange(most) < size_M1)
    return torch.einsum("mj,mjk->mk", part_MJ / part_MJ.sum(1, keepdim=True), weight_NK[run_MJ])

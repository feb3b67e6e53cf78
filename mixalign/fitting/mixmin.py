"""MixMin: the mixture of sources whose models, averaged by probability, fit a target best (arXiv 2502.10510).

Suffixes: `K` sources, with one model each; `N` rows of the target.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mixalign.mixers.simplex import ascend, uniform

__all__ = ["Descent", "certainty", "descend", "held_out", "mixture_loss"]

ROUNDING = 1e-13  # of a loss, relative: near the optimum it changes by less than that
FOLDS = 5  # of `held_out`: four fifths of the rows are fitted on, as in the paper's code


@dataclass(frozen=True)
class Descent:
    """Where entropic descent has ended.

    Attributes:
        weight_K: the weights, float64.
        loss: their cross-entropy on the target.
        gap: the loss is at most so far above that of the best weights there are.
        steps: that were taken.
    """

    weight_K: Tensor
    loss: float
    gap: float
    steps: int


def mixture_loss(weight_K: Tensor, logp_KN: Tensor, scale_N: Tensor) -> Tensor:
    """Cross-entropy of the mixture on the target: `-sum_n scale_n log sum_k weight_k p_k(n)`, a convex function."""
    return -(scale_N * (logp_KN + weight_K.log()[:, None]).logsumexp(0)).sum()


def descend(
    logp_KN: Tensor, scale_N: Tensor, *, lr: float | None = None, steps: int = 10_000, tol: float = 1e-6
) -> Descent:
    """Entropic descent on the simplex, from uniform weights: `w_k <- w_k exp(-lr g_k)`, normalised.

    The paper's code has rate 1 and 100 steps, and stops early when all entries of the gradient are below 1e-4; but
    they are negative and average `-sum_n scale_n`, so that they never are. With rows of many tokens it ends close to
    where it started. Here the rate is of that sum's scale by default, it is halved where the loss would rise, and the
    descent ends when the gap `sum_k w_k g_k - min_k g_k`, which bounds the error of a convex function, is small.

    Args:
        logp_KN: log-probability of each row under each source's model, nats, summed over its tokens.
        scale_N: what each row counts, 1 / (N length) in the paper's code.
        lr: step size; None: 1 / sum(scale).
        steps: most steps.
        tol: largest gap, nats in the unit of the loss.
    """
    log_K = uniform(len(logp_KN)).log()
    rate = 1 / float(scale_N.sum()) if lr is None else lr
    loss, grad_K = _loss_and_gradient(log_K, logp_KN, scale_N)
    taken = 0
    while taken < steps and _gap(log_K, grad_K) > tol:
        new_K = ascend(log_K, -grad_K, rate)
        new_loss, new_grad_K = _loss_and_gradient(new_K, logp_KN, scale_N)
        taken += 1
        if new_loss > loss + ROUNDING * loss.abs():
            rate /= 2
        else:
            log_K, loss, grad_K = new_K, new_loss, new_grad_K
    return Descent(log_K.exp(), float(loss), _gap(log_K, grad_K), taken)


def held_out(logp_KN: Tensor, scale_N: Tensor) -> float:
    """The loss on rows that the weights were not fitted on: every fifth row by weights of the others, five times."""
    fold_N = torch.arange(len(scale_N)) % min(FOLDS, len(scale_N))
    loss = 0.0
    for fold in fold_N.unique():
        left_N = fold_N == fold
        weight_K = descend(logp_KN[:, ~left_N], scale_N[~left_N]).weight_K
        loss += float(mixture_loss(weight_K, logp_KN[:, left_N], scale_N[left_N]))
    return loss


def certainty(weight_K: Tensor, logp_KN: Tensor, scale_N: Tensor) -> float:
    """Posterior probability of the source that most likely made a row, on average over rows.

    At 1 every row has one source, and the best weights are the shares of the sources' rows, by their scale: whatever
    the rows say, no source helps with those of another.
    """
    posterior_KN = (logp_KN + weight_K.log()[:, None]).softmax(0)
    return float((posterior_KN.amax(0) * scale_N).sum() / scale_N.sum())


def _loss_and_gradient(log_K: Tensor, logp_KN: Tensor, scale_N: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient by the weights: `-sum_n scale_n p_k(n) / sum_j weight_j p_j(n)`, (K,)."""
    mixed_N = (logp_KN + log_K[:, None]).logsumexp(0)
    return -(scale_N * mixed_N).sum(), -((logp_KN - mixed_N).exp() * scale_N).sum(1)


def _gap(log_K: Tensor, grad_K: Tensor) -> float:
    return float((log_K.exp() * grad_K).sum() - grad_K.min())

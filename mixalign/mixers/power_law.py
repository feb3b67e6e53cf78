"""Fits a power law with a floor to the loss curves of many tasks at once.

K is the number of tasks, W the number of points of a curve, G the number of starts. Every task's fit depends on its
own curve only, so the order of the tasks does not matter.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PowerLaw", "fit"]

EXPONENTS = (0.05, 0.8)  # bounds of alpha
DELTAS = (1.0, 0.1, 0.01, 1e-3)  # half widths of the quadratic part of Huber's loss, in log loss: stages of the fit
MIN_POINTS = 8
SPAN = 7.0  # a term is between e^-7 times the least loss and e times the largest
ITERATIONS = 20  # of each stage


@dataclass(frozen=True)
class PowerLaw:
    """`loss = exp(e) + exp(a) / D^alpha` of each task, with D samples seen.

    Attributes:
        e_K: log of the loss that no data takes away, nats.
        a_K: log of the rest at D = 1.
        alpha_K: exponent.
    """

    e_K: Tensor
    a_K: Tensor
    alpha_K: Tensor

    def reducible(self, samples: Tensor | float) -> Tensor:
        """Loss that more data can take away after so many samples, (K,), nats."""
        return (self.a_K - self.alpha_K * torch.as_tensor(samples, dtype=torch.float64).log()).exp()

    def valid(self) -> Tensor:
        """Which tasks have a law, (K,)."""
        return torch.stack([self.e_K, self.a_K, self.alpha_K]).isfinite().all(0)


def fit(samples_W: Tensor, loss_KW: Tensor) -> PowerLaw:
    """Least Huber loss between the logs of curve and law; nan for a task with too few points.

    A grid of laws is compared by least squares, in which the scale of the loss is solved for; from the best one,
    Levenberg and Marquardt's method goes on with Huber's loss, whose weights are renewed at every step.

    Args:
        samples_W: samples seen at each point, rising.
        loss_KW: nats; points that are not finite or not above 0 are left out.
    """
    known_KW = (loss_KW > 0) & loss_KW.isfinite()
    samples_W = samples_W.clamp_min(1)
    y_KW = loss_KW.where(known_KW, 1.0).log()
    enough_K = known_KW.sum(1) >= MIN_POINTS
    weight_KW = (known_KW & enough_K[:, None]).to(torch.float64)
    log_x_W = (samples_W / samples_W[-1]).log()  # D relative to now, which makes e and a comparable
    theta_3K = _refine(_start(log_x_W, y_KW, weight_KW), log_x_W, y_KW, weight_KW)
    e_K, a_K, alpha_K = theta_3K.where(enough_K, torch.nan)
    return PowerLaw(e_K, a_K + alpha_K * samples_W[-1].log(), alpha_K)


def _start(log_x_W: Tensor, y_KW: Tensor, weight_KW: Tensor) -> Tensor:
    """The best of a grid of exponents and of ratios of floor to rest, as rows e, a, alpha (3, K)."""
    exponent_G = torch.linspace(*EXPONENTS, 31, dtype=torch.float64).repeat_interleave(49)
    ratio_G = torch.linspace(-6, 6, 49, dtype=torch.float64).repeat(31)
    shape_GW = torch.logaddexp(ratio_G[:, None], -exponent_G[:, None] * log_x_W)
    count_K1 = weight_KW.sum(1, keepdim=True).clamp_min(1)
    y_KW = y_KW - (weight_KW * y_KW).sum(1, keepdim=True) / count_K1
    mean_KG = weight_KW @ shape_GW.T / count_K1
    error_KG = weight_KW @ shape_GW.T.square() - count_K1 * mean_KG.square() - 2 * (weight_KW * y_KW) @ shape_GW.T
    best_K = error_KG.argmin(1)
    return torch.stack([ratio_G[best_K], torch.zeros_like(ratio_G[best_K]), exponent_G[best_K]])


def _refine(theta_3K: Tensor, log_x_W: Tensor, y_KW: Tensor, weight_KW: Tensor) -> Tensor:
    """The least Huber loss near a start, whose scale is not known yet."""
    low_3K, high_3K = _bounds(y_KW, weight_KW)
    offset_K = (weight_KW * (y_KW - _predict(theta_3K, log_x_W))).sum(1) / weight_KW.sum(1).clamp_min(1)
    scale_3K = torch.stack([offset_K, offset_K, torch.zeros_like(offset_K)])
    theta_3K = (theta_3K + scale_3K).clamp(low_3K, high_3K)
    error_KW = _predict(theta_3K, log_x_W) - y_KW
    for delta in DELTAS:
        cost_K = _huber(error_KW, weight_KW, delta)
        damping_K = torch.full_like(cost_K, 1e-2)
        for _ in range(ITERATIONS):
            step_3K = _step(theta_3K, log_x_W, error_KW, weight_KW, damping_K, delta)
            tried_3K = (theta_3K - step_3K).clamp(low_3K, high_3K)
            tried_KW = _predict(tried_3K, log_x_W) - y_KW
            tried_K = _huber(tried_KW, weight_KW, delta)
            better_K = tried_K < cost_K
            theta_3K, cost_K = tried_3K.where(better_K, theta_3K), tried_K.where(better_K, cost_K)
            error_KW = tried_KW.where(better_K[:, None], error_KW)
            damping_K = (damping_K * torch.where(better_K, 0.3, 4.0)).clamp(1e-13, 1e6)
    return theta_3K


def _bounds(y_KW: Tensor, weight_KW: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest e, a and alpha, (3, K) each."""
    least_K = y_KW.where(weight_KW > 0, torch.inf).amin(1).nan_to_num(posinf=0.0)
    most_K = y_KW.where(weight_KW > 0, -torch.inf).amax(1).nan_to_num(neginf=0.0)
    low, high = (torch.full_like(least_K, bound) for bound in EXPONENTS)
    return torch.stack([least_K - SPAN, least_K - SPAN, low]), torch.stack([most_K + 1, most_K + 1, high])


def _predict(theta_3K: Tensor, log_x_W: Tensor) -> Tensor:
    """Log of the law, (K, W)."""
    e_K1, a_K1, alpha_K1 = theta_3K[..., None]
    return torch.logaddexp(e_K1, a_K1 - alpha_K1 * log_x_W)


def _huber(error_KW: Tensor, weight_KW: Tensor, delta: float) -> Tensor:
    inside_KW = error_KW.abs().clamp_max(delta)
    return (weight_KW * inside_KW * (error_KW.abs() - inside_KW / 2)).sum(1)


def _step(
    theta_3K: Tensor, log_x_W: Tensor, error_KW: Tensor, weight_KW: Tensor, damping_K: Tensor, delta: float
) -> Tensor:
    """Damped Gauss-Newton step of the reweighted squares, (3, K)."""
    e_K1, a_K1, alpha_K1 = theta_3K[..., None]
    share_KW = torch.sigmoid(a_K1 - e_K1 - alpha_K1 * log_x_W)  # of what more data takes away
    slope_3KW = torch.stack([1 - share_KW, share_KW, -share_KW * log_x_W])
    weighted_3KW = weight_KW * (delta / error_KW.abs().clamp_min(delta)) * slope_3KW
    normal_K33 = torch.einsum("ikw,jkw->kij", weighted_3KW, slope_3KW)
    gradient_K3 = (weighted_3KW * error_KW).sum(2).T
    ridge_K3 = (1e-30 + normal_K33.diagonal(dim1=1, dim2=2)) * damping_K[:, None]
    step_K3: Tensor = torch.linalg.solve(normal_K33 + torch.diag_embed(ridge_K3), gradient_K3)
    return step_K3.T

"""The minimax promise on a problem whose answer is known: DPO of a log-linear policy on three unequal tasks.

The policy's log-ratio of a pair is x . theta, so the loss is convex in theta and `min over theta of max over tasks
of the mean clipped excess` can be computed to any precision. AMA's theory speaks of the average iterate; that is
what is compared with the minimax value, after 1500 steps of batches of 24 drawn by the real sampler.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import pytest
import torch

from mixalign.data.batches.sampler import MixtureSampler
from mixalign.mixers.ama_r import AMAR
from mixalign.mixers.ama_s import AMAS
from mixalign.mixers.base import MixSignal
from mixalign.mixers.fixed import Temperature

BETA, RADIUS, DIMENSIONS = 0.5, 6.0, 8
TASKS = ((1000, 1.0), (300, 1.0), (100, 0.6))  # pairs, length of their features
STEPS, BATCH = 1500, 24


@dataclass
class Problem:
    """Features of all pairs, their tasks, and the loss of the pair's specialist."""

    x_NH: np.ndarray
    task_N: np.ndarray
    specialist_N: np.ndarray
    minimax: float = 0.0


def loss(x_NH, theta_H):
    return np.logaddexp(0, -BETA * x_NH @ theta_H)


def slope(x_NH, theta_H):
    """d loss / d theta of each pair, (N, H)."""
    return -BETA / (1 + np.exp(BETA * x_NH @ theta_H))[:, None] * x_NH


def into_ball(theta_H):
    return theta_H * min(1.0, RADIUS / max(np.linalg.norm(theta_H), 1e-12))


def task_means(problem, theta_H):
    """Mean clipped excess of each task over all of its pairs."""
    excess_N = np.maximum(loss(problem.x_NH, theta_H) - problem.specialist_N, 0)
    return np.bincount(problem.task_N, excess_N) / np.bincount(problem.task_N)


def make_problem(seed):
    """Tasks with partly shared preferences, and specialists that solve their own."""
    rng = np.random.default_rng(seed)
    shared_H = rng.normal(size=DIMENSIONS)
    parts, specialists = [], []
    for pairs, length in TASKS:
        own_H = 0.4 * shared_H + rng.normal(size=DIMENSIONS)
        x_NH = length * rng.normal(size=(pairs, DIMENSIONS))
        prefers_N = rng.random(pairs) < 1 / (1 + np.exp(-4 * x_NH @ own_H / np.linalg.norm(own_H)))
        parts.append(np.where(prefers_N[:, None], x_NH, -x_NH))
        theta_H = np.zeros(DIMENSIONS)
        for _ in range(500):
            theta_H = into_ball(theta_H - slope(parts[-1], theta_H).mean(0))
        specialists.append(loss(parts[-1], theta_H))
    task_N = np.repeat(np.arange(len(TASKS)), [pairs for pairs, _ in TASKS])
    problem = Problem(np.concatenate(parts), task_N, np.concatenate(specialists))
    problem.minimax = solve(problem)
    return problem


def solve(problem, steps=3000):
    """The minimax value, by full-batch exponentiated gradient against subgradient descent, best iterate."""
    size_K = np.bincount(problem.task_N)
    log_K, theta_H, best = np.zeros(len(TASKS)), np.zeros(DIMENSIONS), np.inf
    for step in range(steps):
        rate = 1 / sqrt(1 + step / 100)
        gap_N = loss(problem.x_NH, theta_H) - problem.specialist_N
        excess_K = np.bincount(problem.task_N, np.maximum(gap_N, 0)) / size_K
        best = min(best, excess_K.max())
        log_K += 2 * rate * excess_K
        alpha_K = np.exp(log_K - log_K.max())
        alpha_K /= alpha_K.sum()
        weight_N = (gap_N > 0) * (alpha_K / size_K)[problem.task_N]
        theta_H = into_ball(theta_H - rate * (weight_N[:, None] * slope(problem.x_NH, theta_H)).sum(0))
    return best


def play(problem, mixer, seed):
    """Relative distance of the average iterate's worst task to the minimax value."""
    size_K = np.bincount(problem.task_N)
    first_K = np.cumsum(size_K) - size_K
    sampler = MixtureSampler(size_K, BATCH, mixer.composition, seed)
    mix, state = mixer.init(torch.from_numpy(size_K))
    theta_H, mean_H = np.zeros(DIMENSIONS), np.zeros(DIMENSIONS)
    for step in range(STEPS):
        sampler.set_mixture(mix.sample_K)
        draw = sampler.draw()
        row_B = first_K[draw.task_B] + draw.row_B
        x_BH = problem.x_NH[row_B]
        loss_B = loss(x_BH, theta_H)
        excess_B = np.maximum(loss_B - problem.specialist_N[row_B], 0)
        factor_K = np.full(len(TASKS), 1 / BATCH) if mix.loss_K is None else mix.loss_K.numpy() / draw.count_K
        weight_B = factor_K[draw.task_B]
        if mixer.descends_on == "excess":
            weight_B = weight_B * (excess_B > 0)
        gradient_H = (weight_B[:, None] * slope(x_BH, theta_H)).sum(0)
        mix, state = mixer.update(measure(step, draw, loss_B, excess_B), state)
        theta_H = into_ball(theta_H - 0.3 / sqrt(1 + step / 100) * gradient_H)
        mean_H += theta_H / STEPS
    return task_means(problem, mean_H).max() / problem.minimax - 1


def measure(step, draw, loss_B, excess_B):
    """What the Mixing callback would measure of this batch."""

    def by_task(value_B):
        return torch.from_numpy(np.bincount(draw.task_B, value_B, minlength=len(TASKS)))

    count_K = torch.from_numpy(draw.count_K).double()
    weighted_K = by_task(excess_B / draw.prob_B) / BATCH
    return MixSignal(step, count_K, by_task(loss_B) / count_K, by_task(excess_B) / count_K, weighted_K)


@pytest.fixture(scope="module", params=[0, pytest.param(1, marks=pytest.mark.slow)])
def problem(request):
    return make_problem(request.param)


@pytest.mark.parametrize(
    "mixer",
    [
        AMAR(eta=0.5),
        AMAS(eta=0.5, c=0.1),
        pytest.param(AMAR(eta=0.05), marks=pytest.mark.slow),
        pytest.param(AMAS(eta=0.05, c=0.1), marks=pytest.mark.slow),
        pytest.param(AMAS(eta=0.5, c=0.1, absent="ema"), marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_reaches_the_minimax_value(problem, mixer):
    assert -1e-3 < play(problem, mixer, seed=0) < 0.03  # the value itself is known to about 1e-5


@pytest.mark.parametrize(("temperature", "gap"), [(1, 0.5), (float("inf"), 0.05)])
def test_static_mixtures_do_not(problem, temperature, gap):
    """Pooling all rows serves the largest task (.8 above); equal shares ignore that tasks differ (.1 above)."""
    assert play(problem, Temperature(temperature), seed=0) > gap


@pytest.mark.long
def test_without_exploration_a_task_is_lost_for_good(problem):
    """With c = 0 a task whose share has become tiny is not drawn, so nothing tells that it gets worse.

    At this large eta every one of six seeds on both problems ended 1.4 or more above; with c = .1 none above .05.
    """
    assert play(problem, AMAS(eta=2.0, c=0.0), seed=0) > 1
    assert play(problem, AMAS(eta=2.0, c=0.1), seed=0) < 0.05

"""RegMix: the mixture that a regression on many short runs predicts to be best (arXiv 2407.01492).

Suffixes: `K` tasks, `N` runs, `M` any mixtures, `Q` quantities that are predicted: the K tasks' losses, or the target
alone; `J` runs whose mixtures are averaged. All tensors are float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixalign.checks import check_choice, check_number
from mixalign.errors import MixalignError, did_you_mean
from mixalign.fitting.regression import REGRESSIONS, Predictor, Regression, average

__all__ = ["Quality", "RegMixFit", "RegMixSettings", "fit_regmix", "left_out", "quality", "search"]

CHUNK = 4096  # mixtures that are predicted together
TREE_FOLDS = 10  # of trees, each of which takes seconds where ridge takes milliseconds


@dataclass(frozen=True)
class RegMixSettings:
    """How a mixture is fitted to runs.

    Attributes:
        target: what is to be low: `mean` or `worst` over tasks, or the name of a task.
        quantity: `loss`, or `excess` over the specialists, of the validation rows; nats.
        regression: a key of `REGRESSIONS`.
        candidates: mixtures whose target is predicted.
        top: how many of them, those with the lowest target, are averaged.
        seed: of the candidates.
    """

    target: str = "mean"
    quantity: str = "loss"
    regression: str = "best"
    candidates: int = 100_000
    top: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("--quantity", self.quantity, ("loss", "excess"))
        check_choice("--regression", self.regression, REGRESSIONS)
        for key, least in (("candidates", 1), ("top", 1), ("seed", 0)):
            check_number(f"--{key}", getattr(self, key), least, whole=True)
        if self.top > self.candidates:
            raise MixalignError(f"`top` is {self.top}, but there are only {self.candidates} candidates.")


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


@dataclass(frozen=True)
class RegMixFit:
    """A mixture that was fitted to runs.

    Attributes:
        weight_K: the mixture.
        loss_K: predicted of it, nats; `target` likewise.
        of_tasks: how well the tasks' losses of runs are predicted; `of_target` likewise, Q = 1.
        target_N: the target of each run, as measured.
    """

    weight_K: Tensor
    loss_K: Tensor
    target: float
    of_tasks: Quality
    of_target: Quality
    target_N: Tensor

    @property
    def best_run(self) -> int:
        """Number of the run with the lowest target."""
        return int(self.target_N.argmin())


def fit_regmix(tasks: Sequence[str], weight_NK: Tensor, loss_NK: Tensor, settings: RegMixSettings) -> RegMixFit:
    """The mixture with the lowest predicted target, and how far the prediction can be trusted.

    Args:
        weight_NK: mixture of each run; `loss_NK`: the losses that it led to, nats.

    Raises:
        MixalignError: for a target that is no task.
    """
    target, regression = _target(settings.target, tasks), REGRESSIONS[settings.regression]
    predict = regression(weight_NK, loss_NK)
    weight_K = search(predict, target, weight_NK, candidates=settings.candidates, top=settings.top, seed=settings.seed)
    loss_K = predict(weight_K[None])[0]
    folds = TREE_FOLDS if settings.regression == "lightgbm" else None
    predicted_NK = left_out(regression, weight_NK, loss_NK, folds)
    target_NQ = target(loss_NK)[:, None]
    return RegMixFit(
        weight_K=weight_K,
        loss_K=loss_K,
        target=float(target(loss_K[None])),
        of_tasks=quality(predicted_NK, loss_NK, left_out(average, weight_NK, loss_NK, folds)),
        of_target=quality(target(predicted_NK)[:, None], target_NQ, left_out(average, weight_NK, target_NQ, folds)),
        target_N=target_NQ[:, 0],
    )


def _target(name: str, tasks: Sequence[str]) -> Callable[[Tensor], Tensor]:
    """From the tasks' losses (M, K) to what is to be low (M,)."""
    if name == "mean":
        return lambda loss_MK: loss_MK.mean(1)
    if name == "worst":
        return lambda loss_MK: loss_MK.amax(1)
    if name not in tasks:
        raise MixalignError(f"The target is `{name}`. {did_you_mean(name, ['mean', 'worst', *tasks])}")
    return lambda loss_MK: loss_MK[:, tasks.index(name)]


def left_out(regression: Regression, weight_NK: Tensor, loss_NQ: Tensor, folds: int | None = None) -> Tensor:
    """Every run (N, Q) as predicted from those of other mixtures; what the fit chooses for itself, it chooses anew.

    Args:
        folds: how many times to fit; None: once for each mixture.
    """
    _, group_N = weight_NK.round(decimals=9).unique(dim=0, return_inverse=True)
    fold_N = group_N % (folds or len(group_N))
    predicted_NQ = torch.empty_like(loss_NQ)
    for fold in fold_N.unique():
        left_N = fold_N == fold
        predict = regression(weight_NK[~left_N], loss_NQ[~left_N])
        predicted_NQ[left_N] = predict(weight_NK[left_N])
    return predicted_NQ


def quality(predicted_NQ: Tensor, loss_NQ: Tensor, others_NQ: Tensor) -> Quality:
    """Of predictions of runs that were left out; `others_NQ`: the mean of the other runs, from `left_out(average)`."""
    saved_Q = 1 - (predicted_NQ - loss_NQ).square().sum(0) / (others_NQ - loss_NQ).square().sum(0)
    ranks = torch.stack([_ranks(predicted_NQ), _ranks(loss_NQ)])
    a_NQ, b_NQ = ranks - ranks.mean(1, keepdim=True)
    return Quality(saved_Q, (a_NQ * b_NQ).sum(0) / (a_NQ.square().sum(0) * b_NQ.square().sum(0)).sqrt())


def _ranks(value_NQ: Tensor) -> Tensor:
    """Ranks within each column, equal values share the mean of theirs; scipy has it, but is not worth its size here."""
    below_NQ = (value_NQ[None] < value_NQ[:, None]).sum(1)
    equal_NQ = (value_NQ[None] == value_NQ[:, None]).sum(1)
    return below_NQ + (equal_NQ.double() - 1) / 2


def search(
    predict: Predictor,
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

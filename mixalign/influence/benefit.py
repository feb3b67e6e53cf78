"""What more volume of each domain does for the target loss (IDEAL, arXiv 2505.12762).

The paper's "reference" rows are targets here: a reference is the policy that DPO stays close to.
K domains, R target tables, T = K + R tables, X resamples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from mixalign.checks import check_choice
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.influence.bootstrap import resample, sign_confidence
from mixalign.influence.capture import at_rest
from mixalign.influence.layers import chosen_layers
from mixalign.influence.passes import Passes
from mixalign.influence.rows import choose_rows
from mixalign.influence.settings import Influence, Reading
from mixalign.influence.solve import Block, Gradient, dot, flattest, joined, solve
from mixalign.mixers.ideal import Budget
from mixalign.objectives.base import Objective

__all__ = ["STEP", "Benefit", "measure"]

STEP = 0.15  # relative change of a volume that scores are judged by: the one that the paper advises
LADDER = [digit * 10**power for power in range(8) for digit in (1, 2, 5)]  # what damping is multiplied by, in turn


@dataclass(frozen=True)
class Benefit:
    """What more volume of each domain does for the target loss. Positive: more of it lowers the loss.

    Training is over domains of n_i rows, p_i = n_i / N of all. With mean gradients g_i, gradient g_target of the
    target loss Q and curvature H of the mean loss, the paper's Lemma (in sums over rows) is
    `-dQ/d beta_i = p_i g_target' H^-1 g_i`: the fall of Q, in nats, for each unit by which the volume grows,
    n_i -> (1 + beta_i) n_i.
    A factored curvature keeps signs and ratios better than the scale: it takes the coordinates of its eigenvectors as
    independent, and each of them adds a score as large as the noise of its mean gradient. With a damping of 0.1 of the
    mean, scores of models of 0.1 M weights come out at several times the loss, those of 135 M at thousands of nats.
    Damping is therefore raised until the scores can be true: see `measure`.

    Attributes:
        domains: names of the domains.
        share_K: p_i.
        product_K: g_target' H^-1 g_i, nats.
        dot_K: g_target' g_i over the same layers: the products under the curvature `identity`.
        resampled_XK: the products on resampled rows.
        rows_K: rows that were read of each domain.
        rows_R: rows that were read of each target table.
        layers: names of the layers that count.
        product_RK: the products of each target table's gradient alone.
        tables: tasks of the target tables.
        damping: that was added, as a share of the mean curvature.
    """

    domains: tuple[str, ...]
    share_K: np.ndarray
    product_K: np.ndarray
    dot_K: np.ndarray
    resampled_XK: np.ndarray
    rows_K: np.ndarray
    rows_R: np.ndarray
    layers: tuple[str, ...]
    product_RK: np.ndarray
    tables: tuple[str, ...]
    damping: float

    def score(self, budget: Budget = "steps", *, size_weighting: bool = True) -> np.ndarray:
        """The benefit of each domain's volume (K,).

        Args:
            budget: `epochs` is the paper's score, for a training that reads its rows a fixed number of times and so
                becomes longer as they become more. `steps` is for one of a fixed length, where more of a domain is less
                of the others: products are centred, `g_i - sum_j p_j g_j` in place of g_i.
            size_weighting: False leaves p_i out, as the paper's code does: the benefit for each row, up to a factor.
        """
        return _weigh(self.product_K, self.share_K, budget, size_weighting)

    def identity(self, budget: Budget = "steps", *, size_weighting: bool = True) -> np.ndarray:
        """The same under the curvature `identity`, to be shown beside it (K,)."""
        return _weigh(self.dot_K, self.share_K, budget, size_weighting)

    def by_target(self, budget: Budget = "steps") -> np.ndarray:
        """What more volume of each domain takes off the mean loss of each target table (R, K), nats."""
        return _weigh(self.product_RK, self.share_K, budget, True)

    def confidence(self, budget: Budget = "steps") -> np.ndarray:
        """Probability, in [0.5, 1], that each score has the right sign, from resampled rows (K,)."""
        return sign_confidence(self.score(budget), _weigh(self.resampled_XK, self.share_K, budget, True))

    @property
    def residual(self) -> float:
        """`sum_i p_i g_target' H^-1 g_i`, nats: 0 for a model that was trained to the end.

        To first order it is what a Newton step on the training loss would take off the target loss. Where it is as
        large as the scores, the Lemma, which speaks of the optimum, does not hold.
        """
        return float(self.score("epochs").sum())


def _weigh(product_XK: np.ndarray, share_K: np.ndarray, budget: Budget, size_weighting: bool) -> np.ndarray:
    check_choice("mixer.budget", budget, get_args(Budget))
    if budget == "steps":
        product_XK = product_XK - (product_XK * share_K).sum(-1, keepdims=True)
    return product_XK * share_K if size_weighting else product_XK


def measure(
    model: nn.Module,
    objective: Objective,
    domains: Sequence[TaskDataset],
    targets: Sequence[TaskDataset],
    influence: Influence | None = None,
    reading: Reading | None = None,
    *,
    volume_K: Sequence[float] | None = None,
    target_weight_R: Sequence[float] | None = None,
    target_loss: float | None = None,
    budget: Budget = "steps",
) -> Benefit:
    """Measures the benefit of each domain's volume for the loss on the target tables.

    Two passes over the chosen rows, for mean gradients and the factors of the curvature, and for EK-FAC's spectrum; and
    one over a few of them, for the products of rows' gradients that the confidence is made of. Memory is that of the
    layers' factors, twice, and of 2 K + R + 2 times their weights, in float32. The model ends as it was.

    Args:
        model: causal LM, trained on the domains to convergence or nearly.
        objective: that of training, with the settings of the domains in their order, behind them those of target
            tables whose task is no domain.
        domains: the training tables.
        targets: the tables whose loss is to fall.
        influence: what is measured; None is the default.
        reading: how rows are read; None is the default.
        volume_K: rows of each domain that training counts; None: those of the tables.
        target_weight_R: weight of each target table's mean loss, scaled to sum to 1; None: the same for all.
        target_loss: the mean of the target tables' losses by these weights, nats, which bounds the scores; None: they
            are as they come out.
        budget: that the scores are bounded under.

    Raises:
        MixalignError: when no layer matches, a table is empty, weights do not fit the tables, or a gradient is not
            finite.
    """
    influence, reading, num = influence or Influence(), reading or Reading(), len(domains)
    layers = chosen_layers(model, influence.layers)
    tables = [*domains, *targets]
    _check_tables(objective, tables, reading)
    share_K = _shares("volume_K", [len(table) for table in domains] if volume_K is None else volume_K, num)
    weight_R = np.ones(len(targets)) if target_weight_R is None else target_weight_R
    share_R = _shares("target_weight_R", weight_R, len(targets))
    rows = choose_rows(tables, influence.most_rows, influence.sampling, influence.seed)
    weight_K = [float(p) / len(row_M) for p, row_M in zip(share_K, rows, strict=False)]
    passes = Passes(model, layers, objective, tables, rows, _tasks(tables), weight_K, influence, reading)
    with at_rest(model):
        return _measure(passes, share_K, share_R, influence, _Bound(target_loss, budget))


@dataclass(frozen=True)
class _Bound:
    """What no score may exceed, and the budget under which scores are taken.

    No score may say that a volume, changed by `STEP`, moves the target loss by more than itself. While one does,
    damping is raised, as Levenberg and Marquardt raise it where a quadratic model promises what it cannot keep. Without
    a curvature scores are no nats, and have no bound.

    A stricter bound takes away what the curvature gives. Tiny Llamas trained whole on four domains (seeds 0 and 2 of
    `benchmarks/evidence_ideal.py`), mean target losses of .459 and .314 after round 0: two rounds end at .213 and .238
    with a damping of 0.1, under which all changes together promise three times the loss, at .235 and .235 with 1, and
    at .201 and .264 with 3. With 10 the first round gains .064 and loses .040.
    """

    target_loss: float | None
    budget: Budget

    def solve(
        self,
        blocks: Mapping[str, Block] | None,
        g_K: Sequence[Gradient],
        g_target: Gradient,
        share_K: np.ndarray,
        least: float,
    ) -> tuple[Gradient, float]:
        """H^-1 g_target with the least damping, from `least` on in steps of 1, 2 and 5, that keeps to the bound."""
        for times in LADDER:
            damping = least * times
            v = solve(blocks, g_target, damping)
            score_K = _weigh(np.array([dot(v, g) for g in g_K]), share_K, self.budget, True)
            if not blocks or self.target_loss is None or STEP * np.abs(score_K).max() <= self.target_loss:
                break
        return v, damping


def _measure(
    passes: Passes, share_K: np.ndarray, share_R: np.ndarray, influence: Influence, bound: "_Bound"
) -> Benefit:
    """The three passes, and what they give."""
    num = len(share_K)
    means = passes.means()
    _check_finite(means.gradients, passes.tables, num)
    blocks = joined(passes.blocks(means.moments)) if means.moments else None
    if blocks and influence.important:
        blocks = flattest(blocks, influence.important)
    passes.layers = {name: layer for name, layer in passes.layers.items() if blocks is None or name in blocks}
    g_K = [{name: g[name] for name in passes.layers} for g in means.gradients[:num]]
    g_target = _mixed(means.gradients[num:], share_R, passes.layers)
    v, damping = bound.solve(blocks, g_K, g_target, share_K, influence.damping)
    w_K = [solve(blocks, g, damping) for g in g_K]
    known = passes.products([[v]] * num + [w_K] * len(share_R), means.sizes)
    domains = [one._replace(product_F=one.product_F[:, 0]) for one in known[:num]]
    product_K = np.array([dot(v, g) for g in g_K])
    return Benefit(
        domains=tuple(table.task for table in passes.tables[:num]),
        share_K=share_K,
        product_K=product_K,
        dot_K=np.array([dot(g_target, g) for g in g_K]),
        resampled_XK=resample(product_K, domains, known[num:], share_R, influence.bootstrap, influence.seed),
        rows_K=passes.rows_T[:num],
        rows_R=passes.rows_T[num:],
        layers=tuple(passes.layers),
        product_RK=np.array([[dot(w, g) for w in w_K] for g in means.gradients[num:]]),
        tables=tuple(table.task for table in passes.tables[num:]),
        damping=damping,
    )


def _check_tables(objective: Objective, tables: Sequence[TaskDataset], reading: Reading) -> None:
    for table in tables:
        if not len(table):
            raise MixalignError(f"A table of task `{table.task}` has no rows, and so no gradient.")
        if objective.uses_reference and reading.live_reference is None and "reference_logp" not in table.columns:
            raise MixalignError(
                f"A table of task `{table.task}` has no column `reference_logp`, which {objective.name} reads. Score "
                "the task, or give `live_reference`."
            )


def _shares(name: str, value: Sequence[float] | np.ndarray, wanted: int) -> np.ndarray:
    """The values scaled to sum to 1."""
    out = np.asarray(value, np.float64)
    if out.shape != (wanted,):
        raise MixalignError(f"`{name}` has shape {out.shape}, but there are {wanted} tables of its kind.")
    if not (np.isfinite(out).all() and (out >= 0).all() and out.sum() > 0):
        raise MixalignError(f"`{name}` is {out.tolist()}, but must be numbers of at least 0, not all of them 0.")
    share: np.ndarray = out / out.sum()
    return share


def _tasks(tables: Sequence[TaskDataset]) -> list[int]:
    """Number of each table's task: a target table has that of the domain of its name."""
    names = list(dict.fromkeys(table.task for table in tables))
    return [names.index(table.task) for table in tables]


def _check_finite(gradients: Sequence[Gradient], tables: Sequence[TaskDataset], num_domains: int) -> None:
    for number, (gradient, table) in enumerate(zip(gradients, tables, strict=True)):
        if not all(bool(g.isfinite().all()) for g in gradient.values()):
            kind = "domain" if number < num_domains else "target table"
            raise MixalignError(
                f"The mean gradient of {kind} `{table.task}` is not finite. The model has diverged, or the precision "
                "is too low: train with a lower learning rate, or measure in 32-true or bf16-mixed."
            )


def _mixed(gradients: Sequence[Gradient], share_R: np.ndarray, names: Iterable[str]) -> dict[str, Tensor]:
    """The gradient of the target loss."""
    pairs = list(zip(share_R.tolist(), gradients, strict=True))
    return {name: torch.stack([p * g[name] for p, g in pairs]).sum(0) for name in names}

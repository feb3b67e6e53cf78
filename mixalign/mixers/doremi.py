"""DoReMi: weights by the excess over a baseline, for a model that is trained afterwards (arXiv 2305.10429)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from mixalign.checks import check_choice, check_flag, check_number
from mixalign.losses.excess import CLIPS, Clip
from mixalign.mixers.base import Composition, DescendsOn, ExcessOver, Mix, MixSignal, Rule, State, read
from mixalign.mixers.simplex import ascend, uniform
from mixalign.mixers.weights import check_weights, in_order, resolve

__all__ = ["DoReMi"]


@dataclass(frozen=True)
class DoReMi(Rule):
    """Weights each task's mean loss by `alpha_i <- (1 - c) alpha_i exp(eta lambda_i) / Z + c / K` (Algorithm 1).

    lambda_i is the task's mean excess over a baseline, the paper's "reference model": one model of all tasks, trained
    on a fixed mixture for as long as the run. Batches hold every task in equal numbers, and the proxy descends on
    `sum_i alpha_i loss_i`, unclipped. The result is the mean of alpha; the final model is sampled by it.

    A task without a sample has its last lambda once more, as in the published code (sangmichaelxie/doremi); before
    its first one it keeps its share, where the code takes the log of the vocabulary's size.

    Differences from the paper. It clips the excess of each token and averages over tokens; here a row is what has a
    loss (a preference pair has no loss by token), so rows are clipped and averaged, and what is worse in one token
    and better in another may cancel: lambda is never larger than the paper's with rows of equal length. alpha of a
    step comes from the steps before it, so the mean runs over alpha_0 .. alpha_(T-1), not alpha_1 .. alpha_T. The
    published code starts alpha at the baseline's mixture and samples by it; here, as in the paper, both are uniform.

    Attributes:
        eta: step size, per nat of excess; 1 in the paper.
        c: share that every step spreads uniformly over the tasks; 1e-3 in the paper, 1e-4 by default in its code.
        clip: `sample`: mean of max(loss - baseline loss, 0); `task`: max of the mean and 0, as in Aioli's port
            (arXiv 2411.05735); `none`.
        baseline: mixture that the baseline is trained on: `uniform`, `proportional` to rows, a list in the order of the
            tasks, or one by task name. The weights of an earlier run give the paper's iterated DoReMi.
        final: trains a model from the start on the mean of alpha; else the proxy is the model.
    """

    eta: float = 1.0
    c: float = 1e-3
    clip: Clip = "sample"
    baseline: str | Sequence[float] | Mapping[str, float] = "uniform"
    final: bool = True

    needs: ClassVar[frozenset[str]] = frozenset({"excess_K"})
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    excess_over: ClassVar[ExcessOver] = "baseline"

    def __post_init__(self) -> None:
        check_number("mixer.eta", self.eta, 0)
        check_number("mixer.c", self.c, 0, 1)
        check_choice("mixer.clip", self.clip, CLIPS)
        check_weights("mixer.baseline", self.baseline)
        check_flag("mixer.final", self.final)

    def for_run(self, tasks: list[str], steps: int) -> "DoReMi":
        """The rule with the baseline's weights in the order of the tasks."""
        baseline = in_order("mixer.baseline", self.baseline, tasks)
        if not isinstance(baseline, str):
            resolve("mixer.baseline", baseline, torch.ones(len(tasks)))  # refuses a list of another length
        return replace(self, baseline=baseline)

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        unknown_K = torch.full((len(rows_K),), torch.nan, dtype=torch.float64)
        return self._mix({"log_alpha_K": uniform(len(rows_K)).log(), "excess_K": unknown_K})

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        seen_K = read(signal, "excess_K", state["excess_K"])
        excess_K = torch.where(seen_K.isnan(), state["excess_K"], seen_K)
        log_K = ascend(state["log_alpha_K"], excess_K, self.eta)
        share, rest = torch.tensor([self.c / len(log_K), 1 - self.c], dtype=torch.float64).log()
        # in log space, where with c=0 no weight is ever so small that it cannot come back
        return self._mix({"log_alpha_K": torch.logaddexp(log_K + rest, share), "excess_K": excess_K})

    def _mix(self, state: State) -> tuple[Mix, State]:
        alpha_K = state["log_alpha_K"].exp()
        return Mix(uniform(len(alpha_K)), alpha_K), state

"""Skill-It: multiplicative weights on validation losses over a graph of skills (arXiv 2307.14430, Algorithm 1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

import torch
from torch import Tensor

from mixalign.checks import check_number
from mixalign.errors import MixalignError
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Composition, DescendsOn, Mix, MixSignal, Rule, State, read

__all__ = ["SkillIt"]


@dataclass(frozen=True)
class SkillIt(Rule):
    """Samples task i in proportion to `exp(eta sum_{last w validations} sum_j A_ij L_j)`, with validation losses L.

    The sum is over a window, as in the paper and its code, so that old losses are forgotten and the mixture does
    not collapse. It changes after a validation (`val_every`); the first one is `exp(eta sum_j A_ij)`.

    Attributes:
        graph: A as K rows of K numbers, in the order of the tasks: how much training on task i (row) helps task j
            (column), from pilot runs; `eye`: no task helps another. The paper's code halves all edges off the
            diagonal; write such numbers yourself.
        eta: step size, per nat of validation loss.
        window: validations that count, the paper's w.
    """

    graph: str | Sequence[Sequence[float]] = "eye"
    eta: float = 0.2
    window: int = 3

    needs: ClassVar[frozenset[str]] = frozenset({"eval_loss_K"})
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"

    def __post_init__(self) -> None:
        check_number("mixer.eta", self.eta, 0)
        check_number("mixer.window", self.window, 1, whole=True)
        if self.graph == "eye":
            return
        rows = self.graph if isinstance(self.graph, Sequence) and not isinstance(self.graph, str) else []
        square = bool(rows) and all(isinstance(row, Sequence) and len(row) == len(rows) for row in rows)
        if not square or not all(isinstance(x, int | float) and isfinite(x) for row in rows for x in row):
            raise MixalignError(f"`mixer.graph` is {self.graph!r}, but must be `eye` or K rows of K numbers.")

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        num_tasks = len(rows_K)
        if self.graph != "eye" and len(self.graph) != num_tasks:
            raise MixalignError(f"`mixer.graph` has {len(self.graph)} rows, but there are {num_tasks} tasks.")
        one_K = torch.ones(num_tasks, dtype=torch.float64)
        return self._mix(one_K), {"sum_K": one_K, "recent_WK": torch.zeros(int(self.window), num_tasks).double()}

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        loss_K = read(signal, "eval_loss_K", state["sum_K"])
        if loss_K.isnan().any():  # no validation since the last update
            return self._mix(state["sum_K"]), state
        recent_WK = torch.cat([state["recent_WK"][1:], loss_K[None]])
        return self._mix(recent_WK.sum(0)), {"sum_K": recent_WK.sum(0), "recent_WK": recent_WK}

    def _mix(self, loss_K: Tensor) -> Mix:
        helped_K = loss_K if self.graph == "eye" else torch.tensor(self.graph, dtype=torch.float64) @ loss_K
        return Mix((self.eta * helped_K).softmax(0))

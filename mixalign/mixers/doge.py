"""DoGE: more of the tasks whose gradients help all tasks, or a chosen few (arXiv 2310.15393, Algorithm 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from mixalign.checks import check_flag, check_number
from mixalign.errors import MixalignError
from mixalign.losses.excess import Clip
from mixalign.mixers.base import Cadence, Composition, DescendsOn, Mix, MixSignal, Rule, State, read
from mixalign.mixers.lengths import in_steps, known
from mixalign.mixers.simplex import ascend, normalise
from mixalign.mixers.weights import check_weights, in_order, resolve

__all__ = ["DoGE"]

MAX_GAIN = 5.0  # of the published code, in mean gradient norms
TINY = 1e-6  # beside a norm that is divided by, as in the published code


@dataclass(frozen=True)
class DoGE(Rule):
    """Weights each task's mean loss by `alpha_j <- alpha_j exp(eta W_j)`, with `W_j = <g_j, sum_i p_i g_i>`.

    g_j is the gradient of task j's mean loss: W_j is what a step on task j alone takes away from the targets' losses,
    to first order. With p = 1 for all tasks this is the paper's universal generalisation; with p = 1 for one task and
    0 for the others, its out-of-domain generalisation to that task.

    The paper's two stages have a lever each. The proxy draws all tasks alike, and descends on `sum_j alpha_j loss_j`;
    the final model is sampled by the mean of alpha. The published code (Olivia-fsm/DoGE, trainer.py) does the same.

    Differences from the paper: eta is constant, where the paper's is the learning rate of the step over mu; gradients
    are those of rows drawn for this purpose after the step, not of the step's own batch; and the square of a gradient
    in W_j is unbiased. alpha of a step comes from the steps before it, so the mean begins with the uniform mixture.

    With `rescale`, W_j is divided by the tasks' mean gradient norm and kept within 0 and 5, as in the published code
    and in Aioli's port (arXiv 2411.05735, doge_trainer.py), so that eta need not follow the size of the gradients.
    Left out are their clipping of each task's gradient (norm 5 or 1), and two things of theirs that are not the
    paper's: for universal generalisation they take the gradient of a batch of all tasks in place of the sum of the
    tasks' (W is K times smaller), and Aioli's counts an absent task as W = 0 (here it keeps its share). The code also
    has a line that would leave `<g_j, g_j>` out of W_j, but its condition compares sets of tensors and never holds.

    Attributes:
        eta: step size, eta / mu of the paper; the code has 5e-4 / .01 for universal, 5e-4 / .05 for out-of-domain
            generalisation, at the peak of its learning rate.
        target: p, what the mixture is to be good at: `uniform`, `proportional` to rows, a list in the order of the
            tasks, or one by task name. Only ratios count: the largest weight is taken as 1.
        out_of_domain: whether the tasks with a target weight are measured only, and get no weight in the training.
        rescale: whether W is brought to the scale of the published code; else it is the paper's, in squared gradients.
        every: steps between two measurements, below 1 a share of the run; 1 in the paper.
        final: trains a model from the start on the mean of alpha; else the proxy is the model.
    """

    eta: float = 0.05
    target: str | Sequence[float] | Mapping[str, float] = "uniform"
    out_of_domain: bool = False
    rescale: bool = True
    every: float = 1
    final: bool = True

    needs: ClassVar[frozenset[str]] = frozenset({"gradient_KK"})
    composition: ClassVar[Composition] = "stratified"
    descends_on: ClassVar[DescendsOn] = "loss"
    clip: ClassVar[Clip] = "none"
    cadence: ClassVar[Cadence] = "interval"

    def __post_init__(self) -> None:
        check_number("mixer.eta", self.eta, 0)
        check_weights("mixer.target", self.target)
        check_flag("mixer.out_of_domain", self.out_of_domain)
        check_flag("mixer.rescale", self.rescale)
        check_number("mixer.every", self.every, 0)
        check_flag("mixer.final", self.final)

    def for_run(self, tasks: list[str], steps: int) -> "DoGE":
        """The rule for a run of that many steps, its targets in the order of the tasks."""
        every = max(1, in_steps(self.every, steps))
        return replace(self, every=every, target=in_order("mixer.target", self.target, tasks))

    def asks(self, step: int) -> bool:
        """After every `every` steps."""
        return step % max(1, known("mixer.every", self.every)) == 0

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        known("mixer.every", self.every)
        target_K = resolve("mixer.target", self.target, rows_K)
        trained_K = (target_K == 0).double() if self.out_of_domain else torch.ones_like(target_K)
        if not trained_K.any():
            raise MixalignError(
                f"`mixer.out_of_domain` is True, but `mixer.target` is {self.target!r}: all tasks are targets, and "
                "none is left to train on. Name those that are only measured, as in `mixer.target={math: 1}`."
            )
        return self._mix({"log_alpha_K": normalise(trained_K).log(), "target_K": target_K / target_K.max()})

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        log_K = state["log_alpha_K"]
        gain_K = self._gain(read(signal, "gradient_KK", log_K), state["target_K"], log_K > -torch.inf)
        return self._mix({**state, "log_alpha_K": ascend(log_K, gain_K, self.eta)})

    def _gain(self, product_KK: Tensor, target_K: Tensor, trained_K: Tensor) -> Tensor:
        """W of each task, over the targets that were measured; nan for a task that was not."""
        square_K = product_KK.diagonal()
        known_K = ~square_K.isnan()
        gain_K = product_KK.nan_to_num(0.0) @ target_K
        if self.rescale:
            norm = square_K[known_K & trained_K].clamp_min(0).sqrt().mean()
            gain_K = (gain_K / (norm + TINY)).clamp(0, MAX_GAIN)
        return gain_K.where(known_K, torch.nan)

    def _mix(self, state: State) -> tuple[Mix, State]:
        log_K = state["log_alpha_K"]
        return Mix(normalise((log_K > -torch.inf).double()), log_K.exp()), state

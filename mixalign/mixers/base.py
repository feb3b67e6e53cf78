"""The mixer contract: measurements in, weights out.

A mixer is a frozen dataclass whose fields are its config keys. It holds no state: `init` and `update` take and
return it, as a plain dict of tensors, so that a checkpoint, another rank or a test can hold it as well.
K is the number of tasks; every weight is a float64 tensor on the CPU.
"""

from dataclasses import dataclass
from math import inf
from typing import Any, Literal, Protocol, Self, runtime_checkable

from torch import Tensor

from mixalign.losses.excess import Clip
from mixalign.mixers.measurements import PROBED, read

__all__ = [
    "PROBED",
    "Cadence",
    "Composition",
    "DescendsOn",
    "ExcessOver",
    "Mix",
    "MixSignal",
    "Mixer",
    "Rule",
    "State",
    "read",
    "reads_excess",
]

State = dict[str, Tensor]
Composition = Literal["stratified", "multinomial"]
DescendsOn = Literal["loss", "excess"]
ExcessOver = Literal["specialists", "baseline"]
Cadence = Literal["step", "interval", "round"]


@dataclass(frozen=True)
class Mix:
    """The two levers of a mixture. A rule moves one and leaves the other neutral.

    Attributes:
        sample_K: probability that a drawn row belongs to each task; sums to 1.
        loss_K: weight of each task's mean loss, summing to 1; None is neutral: the plain mean over the batch.
    """

    sample_K: Tensor
    loss_K: Tensor | None = None

    @property
    def alpha_K(self) -> Tensor:
        """The mixture as papers plot it: the lever that the rule moves."""
        return self.sample_K if self.loss_K is None else self.loss_K


@dataclass(frozen=True)
class MixSignal:
    """What was measured since the last update, per task, over all ranks; None when nothing measured it.

    Where rows have weights, means over a task's samples are weighted means: losses, excess, gradients. Counts, and the
    draws that a mixture decides, know nothing of them.

    Attributes:
        step: number of updates made before this one.
        count_K: samples seen.
        loss_K: mean loss, nats; nan for a task without a sample.
        loss_iw_K: importance-weighted loss, `1/B * sum_b loss_b / draw_prob_b`: an unbiased estimate of the task's
            mean loss whatever was drawn; 0 for a task without a sample.
        excess_K: mean excess over the specialist, clipped as the mixer's `clip` says; nan without a sample.
        excess_iw_K: importance-weighted excess, `1/B * sum_b excess_b / draw_prob_b`: an unbiased estimate of
            the task's mean excess whatever was drawn; 0 for a task without a sample.
        benefit_K: how much more rows of a task would lower the loss on the reference set, in any unit; measured
            after a training, for rules that work in rounds.
        confidence_K: probability that the sign of `benefit_K` is right; comes with it.
        eval_loss_K: mean loss on the validation rows, nats; nan without a validation since the last update.
        eval_excess_K: the same of the excess, clipped as the mixer's `clip` says.
        probe_loss_K: mean loss on a fixed sample of validation rows, nats; like all that follow it is measured by
            probes, after the steps that the mixer asks for, and is nan after the others.
        gain_K: share of a task's loss that one trial step on its own rows takes away.
        gradient_KK: dot products of the tasks' mean gradients, entry ij for tasks i and j; the diagonal, too, is an
            unbiased estimate from a few rows.
        noise_K: variance of one row's gradient around its task's mean, summed over the weights.
        weight_K: sum of the weights of the samples seen, each over the mean weight of its task's table; None: each
            sample counts 1.
    """

    step: int
    count_K: Tensor
    loss_K: Tensor | None = None
    excess_K: Tensor | None = None
    excess_iw_K: Tensor | None = None
    benefit_K: Tensor | None = None
    confidence_K: Tensor | None = None
    loss_iw_K: Tensor | None = None
    eval_loss_K: Tensor | None = None
    eval_excess_K: Tensor | None = None
    probe_loss_K: Tensor | None = None
    gain_K: Tensor | None = None
    gradient_KK: Tensor | None = None
    noise_K: Tensor | None = None
    weight_K: Tensor | None = None

    @property
    def counted_K(self) -> Tensor:
        """What a task's samples count in a mean over several updates: their number, or the sum of their weights."""
        return self.count_K if self.weight_K is None else self.weight_K


@runtime_checkable
class Mixer(Protocol):
    """What every rule must have. A class from outside need not inherit from anything."""

    @property
    def needs(self) -> frozenset[str]:
        """Fields of MixSignal that `update` reads."""

    @property
    def composition(self) -> Composition:
        """How a batch is made up, unless the sampler is told otherwise."""

    @property
    def descends_on(self) -> DescendsOn:
        """The quantity whose mean the model minimises."""

    @property
    def clip(self) -> Clip:
        """How excess is clipped; see mixalign.losses.excess."""

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        """The first mixture, from the number of training rows of each task (K,)."""

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        """The next mixture."""


class Rule(Mixer):
    """What a rule may say beside, and what holds where it does not.

    Rules of this package inherit from it; `mixalign.mixers.outside.as_rule` gives the defaults to those that do not.
    """

    @property
    def cadence(self) -> Cadence:
        """`step`: decides after every step. `interval`: at those that `asks` names. `round`: between trainings."""
        return "step"

    @property
    def static(self) -> bool:
        """Whether nothing that is measured moves the mixture."""
        return False

    @property
    def final(self) -> bool:
        """Whether the mean of its mixtures is the result, on which a model is trained from the start."""
        return False

    @property
    def excess_over(self) -> ExcessOver:
        """`specialists`, or `baseline`: one model of all tasks, trained on the mixture `baseline`."""
        return "specialists"

    @property
    def baseline(self) -> Any:
        """Weights as in mixalign.mixers.weights."""
        return "uniform"

    @property
    def max_epochs(self) -> float:
        """Passes over a task's rows after which it gets no weight any more."""
        return inf

    @property
    def averages(self) -> bool:
        """Whether it averages excess over updates itself: with `clip=task` it then gets means that are not clipped."""
        return False

    def exhausted(self, state: State, banned_K: Tensor) -> bool:
        """Whether no task is left to draw: each has had its `max_epochs`, is banned, or has no weight."""
        return False

    def for_run(self, tasks: list[str], steps: int) -> Self:
        """The rule for a run of these tasks and of that many steps."""
        return self

    def asks(self, step: int) -> bool:
        """Whether probes measure after that many steps."""
        return True

    def caution(self, num_tasks: int, batch_size: int) -> str | None:
        """A warning, when settings are unsafe for so many tasks and rows of a batch."""
        return None


def reads_excess(mixer: Mixer) -> bool:
    """Whether a rule needs the losses of frozen models: its specialists, or its baseline."""
    return mixer.descends_on == "excess" or any("excess" in name for name in mixer.needs)

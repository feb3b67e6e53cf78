"""The mixer contract: measurements in, weights out.

A mixer is a frozen dataclass whose fields are its config keys. It holds no state: `init` and `update` take and
return it, as a plain dict of tensors, so that a checkpoint, another rank or a test can hold it as well.
K is the number of tasks; every weight is a float64 tensor on the CPU.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from mixalign.errors import MixalignError
from mixalign.losses.excess import Clip

__all__ = ["PROBED", "Composition", "DescendsOn", "Mix", "MixSignal", "Mixer", "State", "read"]

State = dict[str, Tensor]
Composition = Literal["stratified", "multinomial"]
DescendsOn = Literal["loss", "excess"]


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


@runtime_checkable
class Mixer(Protocol):
    """A rule that decides how much each task counts.

    Further methods that a rule may have: `for_run(tasks, steps)` gives the rule for a run of that length;
    `asks(step)` says whether probes measure after that many steps (a rule without it asks always);
    `caution(num_tasks, batch_size)` gives a warning, or None.

    Further attributes: `final`: True when the mean of its mixtures is the result, on which a model is trained from the
    start; `excess_over`: `specialists`, as without it, or `baseline`, one model of all tasks, trained on the mixture
    that the attribute `baseline` says (uniform without it).
    """

    needs: ClassVar[frozenset[str]]  # fields of MixSignal that `update` reads
    composition: ClassVar[Composition]  # how a batch is made up, unless the sampler is told otherwise
    descends_on: ClassVar[DescendsOn]  # the quantity whose mean the model minimises

    @property
    def clip(self) -> Clip:
        """How excess is clipped; see mixalign.losses.excess."""

    def init(self, rows_K: Tensor) -> tuple[Mix, State]:
        """The first mixture, from the number of training rows of each task (K,)."""

    def update(self, signal: MixSignal, state: State) -> tuple[Mix, State]:
        """The next mixture."""


_ALWAYS = "the Mixing callback measures it in every run"
_ROUNDS = "it is measured between rounds of training: run the mixer with `mixalign train`"
_SPECIALISTS = "it needs specialist losses: set `specialists.train=auto`, or point `specialists.dir` at trained ones"
_PROBES = "a probe of mixalign.training.callbacks measures it: run the mixer with `mixalign train`"
PROVIDERS = {
    "loss_K": _ALWAYS,
    "loss_iw_K": _ALWAYS,
    "excess_K": _SPECIALISTS,
    "excess_iw_K": _SPECIALISTS,
    "eval_loss_K": _ALWAYS,
    "eval_excess_K": _SPECIALISTS,
    "benefit_K": _ROUNDS,
    "confidence_K": _ROUNDS,
    "probe_loss_K": _PROBES,
    "gain_K": _PROBES,
    "gradient_KK": _PROBES,
    "noise_K": _PROBES,
}
PROBED = frozenset(name for name, source in PROVIDERS.items() if source == _PROBES)


def read(signal: MixSignal, name: str, state_K: Tensor) -> Tensor:
    """The measurement `name` as float64 (K,) or (K, K), checked against the number of tasks of the state.

    Raises:
        MixalignError: when nothing measured it, or its shape is not (K,), or (K, K) for a name in `_KK`.
    """
    value_K = getattr(signal, name)
    if value_K is None:
        raise MixalignError(f"This mixer needs `{name}`, and nothing measured it: {PROVIDERS[name]}.")
    if value_K.shape != state_K.shape * name.count("K"):
        raise MixalignError(f"`{name}` has shape {tuple(value_K.shape)}, but the mixture has {len(state_K)} tasks.")
    return value_K.to(torch.float64)

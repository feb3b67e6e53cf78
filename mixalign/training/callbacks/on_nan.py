"""What happens when a task's loss is not finite. Whatever it is, the weights never take such a step."""

import logging
from typing import Literal, get_args

import torch
from torch import Tensor

from mixalign.checks import check_choice
from mixalign.errors import MixalignError
from mixalign.mixers.base import Mix
from mixalign.mixers.simplex import normalise

__all__ = ["BadTasks", "OnNan"]

log = logging.getLogger(__name__)
OnNan = Literal["raise", "skip", "quarantine"]


class BadTasks:
    """Deals with tasks whose loss is not finite.

    Args:
        tasks: names of the K tasks.
        on_nan: `raise` ends the run; `skip` goes on with the next batch; `quarantine` also gives the task no weight
            any more.

    Raises:
        MixalignError: for another policy.
    """

    def __init__(self, tasks: list[str], on_nan: OnNan = "raise") -> None:
        check_choice("on_nan", on_nan, get_args(OnNan))
        self.tasks, self.on_nan = tasks, on_nan
        self.banned_K = torch.zeros(len(tasks), dtype=torch.bool)  # tasks in quarantine

    def meet(self, bad_K: Tensor, step: int) -> None:
        """Applies the policy to the tasks that spoilt a step.

        Raises:
            MixalignError: when the policy is `raise`, or when no task would be left.
        """
        names = "`, `".join(task for task, bad in zip(self.tasks, bad_K, strict=True) if bad)
        what = f"The loss of task `{names}` is not finite at step {step}."
        if self.on_nan == "raise":
            raise MixalignError(
                f"{what} The weights did not take that step. Look for rows of that task that are far from the rest, "
                "lower `optimizer.lr`, or go on without such steps: `on_nan=skip`, or `on_nan=quarantine`."
            )
        if self.on_nan == "quarantine":
            self.banned_K |= bad_K
            if self.banned_K.all():
                raise MixalignError(f"{what} No task is left that is not in quarantine. Lower `optimizer.lr`.")
        log.warning("%s The step is skipped%s.", what, ", and so is the task from now on" * (self.on_nan != "skip"))

    def without_banned(self, mix: Mix) -> Mix:
        """The mixture with nothing for the tasks in quarantine."""
        if not self.banned_K.any():
            return mix
        left_K = (~self.banned_K).double()

        def rest(weight_K: Tensor) -> Tensor:
            weight_K = weight_K * left_K
            return normalise(weight_K if weight_K.sum() > 0 else left_K)

        return Mix(rest(mix.sample_K), None if mix.loss_K is None else rest(mix.loss_K))

"""Axes and summaries of the metrics on a Weights & Biases dashboard."""

import os
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger

from mixalign.errors import MixalignError
from mixalign.training.callbacks.mixing import Mixing

__all__ = ["WandbBoard", "log_in"]

BY_TASK = (
    "alpha",
    "excess",
    "loss",
    "share",
    "epochs",
    "eval_loss",
    "eval_excess",
    "eval_gap",
    "eval_accuracy",
)


class WandbBoard(L.Callback):
    """Tells W&B that steps are the axis of every per-task metric, and shows the path of the mixture at the end.

    W&B makes one section of each prefix by itself, so `alpha/*` is a panel of all task weights. Its globs work only
    at the end of a name, which is why metrics are called `<quantity>/<task>`.
    """

    def __init__(self, mixing: Mixing) -> None:
        self.mixing = mixing

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                run = logger.experiment
                run.define_metric("trainer/global_step")
                for prefix in (*BY_TASK, "mix", "eval", "train"):
                    run.define_metric(f"{prefix}/*", step_metric="trainer/global_step")
                for worst in ("eval/worst_excess", "eval/worst_loss"):
                    run.define_metric(worst, step_metric="trainer/global_step", summary="min")

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                rows = [list(x) for x in zip(self.mixing.tasks, self.mixing.mix.alpha_K.tolist(), strict=True)]
                logger.log_table("mixture", columns=["task", "alpha"], data=rows)


def log_in() -> None:
    """Lets W&B look for an account, and ask for one where somebody can answer, before hours of work and not after.

    Raises:
        MixalignError: when there is none.
    """
    if os.environ.get("WANDB_API_KEY"):
        return
    import wandb

    try:
        wandb.login()
    except wandb.errors.UsageError as error:
        raise MixalignError(
            f"`logger=wandb` needs an account ({error}) Set WANDB_API_KEY, or `logger.wandb.offline=true`, which keeps "
            "the curves in the run's folder for `wandb sync`."
        ) from error
    except wandb.errors.Error:
        pass  # of the network, which may be back when the curves begin

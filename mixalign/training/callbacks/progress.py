"""A progress bar that shows the mixture."""

from typing import Any

from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from mixalign.training.callbacks.mixing import Mixing

__all__ = ["MixtureProgress"]

SHOWN = 3  # heaviest tasks in the bar


class MixtureProgress(TQDMProgressBar):
    """Lightning's bar with the stage's name, the heaviest tasks and the worst validation excess.

    Args:
        mixing: where the mixture is.
        title: what is being trained.
    """

    def __init__(self, mixing: Mixing, title: str) -> None:
        super().__init__(refresh_rate=10)
        self.mixing, self.title = mixing, title

    def init_train_tqdm(self) -> Any:
        bar = super().init_train_tqdm()
        bar.leave = False
        return bar

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(self.title)

    def init_validation_tqdm(self) -> Any:
        return Tqdm(disable=True)  # validation is short, and its bar would break the training bar in two

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        alpha_K = self.mixing.mix.alpha_K
        line: dict[str, Any] = {}
        if len(alpha_K) > 1:
            heavy = alpha_K.argsort(descending=True, stable=True)[:SHOWN].tolist()
            line["mix"] = " ".join(f"{self.mixing.tasks[k]} {float(alpha_K[k]):.2f}" for k in heavy)
        evaluation = pl_module.evaluation
        if "excess" in evaluation:
            line["worst_excess"] = f"{float(evaluation['excess'].max()):.3f}"
        return line

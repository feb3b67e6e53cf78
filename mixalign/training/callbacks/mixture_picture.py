"""The path of the mixture as a picture, to the trackers that show pictures, and the panels of TensorBoard."""

import io
import json
import logging
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger

from mixalign.training.callbacks.mixing import Mixing

__all__ = ["LAYOUT", "MixturePicture", "draw_path", "read_path"]

log = logging.getLogger(__name__)
MOST = 500  # steps that are drawn
LAYOUT = {
    "mixture": {
        "task weights": ["Multiline", ["alpha/.*"]],
        "rows seen": ["Multiline", ["share/.*"]],
    },
    "tasks": {
        "training loss": ["Multiline", ["^loss/.*"]],
        "excess": ["Multiline", ["^excess/.*"]],
        "validation loss": ["Multiline", ["eval_loss/.*"]],
        "validation excess": ["Multiline", ["eval_excess/.*"]],
        "specialists": ["Multiline", ["specialist_loss/.*"]],
    },
}
"""TensorBoard's custom scalars: one plot with a line for each task."""


class MixturePicture(L.Callback):
    """Sends a stacked area of the task weights over all steps, at the end of a training.

    To W&B, trackio and whatever else has Lightning's `log_image`, to TensorBoard, and to MLflow as an artifact.
    """

    def __init__(self, mixing: Mixing) -> None:
        self.mixing = mixing

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.add_custom_scalars(LAYOUT)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        path = self.mixing.history.path
        shows = [logger for logger in trainer.loggers if _shows(logger)]
        if not trainer.is_global_zero or path is None or not path.is_file() or not shows:
            return
        step_S, alpha_SK = read_path(path)
        if not len(step_S):
            return
        image = draw_path(step_S, alpha_SK, self.mixing.tasks)
        for logger in shows:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("mixture", image, trainer.global_step, dataformats="HWC")
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_image(logger.run_id, image, "mixture.png")
            else:
                logger.log_image("mixture_path", [image])


def _shows(logger: Any) -> bool:
    return isinstance(logger, TensorBoardLogger | MLFlowLogger) or hasattr(logger, "log_image")


def read_path(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The steps of a `mix.jsonl` (S,), and the lever that the rule moves at each (S, K), at most `MOST` of them."""
    lines = path.read_text().splitlines()
    rows = [json.loads(line) for line in lines[:: -(-len(lines) // MOST) or 1]]
    alpha_SK = np.array([row["sample"] if row["loss"] is None else row["loss"] for row in rows], dtype=float)
    return np.array([row["step"] for row in rows]), np.nan_to_num(alpha_SK)


def draw_path(step_S: np.ndarray, alpha_SK: np.ndarray, tasks: list[str]) -> np.ndarray:
    """A picture of weights over steps, one band a task, uint8 of shape (height, width, 3)."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(8, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="task weight")
    few = len(tasks) <= 10
    colors = colormaps["tab10"](range(10)) if few else colormaps["turbo"](np.linspace(0.05, 0.95, len(tasks)))
    axes.stackplot(step_S, alpha_SK.T, labels=tasks, step="post", colors=colors)
    axes.margins(x=0, y=0)
    figure.legend(loc="outside right upper", reverse=True, fontsize="small", ncols=1 + len(tasks) // 24)
    FigureCanvasAgg(figure)
    figure.savefig(made := io.BytesIO(), format="png")
    return np.asarray(Image.open(made).convert("RGB"))

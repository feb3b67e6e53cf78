"""metrics.csv of a run folder."""

import csv
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

__all__ = ["MetricsFile"]


class MetricsFile(CSVLogger):
    """Lightning's CSV logger without a sub-folder, and with the lines of the run that is resumed.

    Lightning's own deletes the file that it finds.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="")

    @property
    def experiment(self) -> Any:
        if self._experiment is None:
            path = Path(self.log_dir) / "metrics.csv"
            before = list(csv.DictReader(path.read_text().splitlines())) if path.is_file() else []
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
                writer: Any = super().experiment
            writer.metrics = [{key: value for key, value in row.items() if value} for row in before]
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        self.save()  # so that it can be followed, and survives the process

    def forget_after(self, step: int) -> None:
        """Drops the lines of later steps, which a run that goes on from `step` will write again."""
        self.experiment.metrics = [row for row in self.experiment.metrics if int(row["step"]) <= step]

"""metrics.csv of a run folder."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mixalign.files import adding_to, write_text

__all__ = ["MetricsFile"]


class _Writer(ExperimentWriter):
    """Adds to the file that is there; Lightning's own deletes it."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.metrics_keys = list(_read(Path(self.metrics_file_path))[0])

    def _check_log_dir_exists(self) -> None:
        pass

    def save(self) -> None:
        with adding_to(Path(self.metrics_file_path)):
            super().save()

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """When a column is new; at once, since a killed run cannot write earlier lines again."""
        path = Path(self.metrics_file_path)
        write_text(path, _text(fieldnames, _read(path)[1]))


class MetricsFile(CSVLogger):
    """Lightning's CSV logger without a sub-folder, and with the lines of the run that is resumed."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="")

    @property
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        self.save()  # so that it can be followed, and survives the process

    def forget_after(self, step: int) -> None:
        """Drops the lines of later steps, which a run that goes on from `step` will write again, and a torn one."""
        path = Path(self.experiment.metrics_file_path)
        if not path.is_file():
            return
        keys, rows = _read(path)
        kept = (row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= step)
        write_text(path, _text(keys, kept))


def _text(keys: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, keys)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of the columns, and the whole lines."""
    if not path.is_file():
        return [], []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]  # else it is torn
    reader = csv.DictReader(lines)
    rows = [row for row in reader if None not in row.values()]
    return list(reader.fieldnames or []), rows

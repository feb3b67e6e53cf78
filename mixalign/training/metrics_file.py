"""metrics.csv of a run folder."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from mixalign.files import adding_to, write_text

__all__ = ["MetricsFile"]


class MetricsFile(Logger):
    """Adds a line to metrics.csv for everything that is logged, at once, below the lines of the run that is resumed.

    Not Lightning's CSVLogger, which deletes the file that is there
    (https://github.com/Lightning-AI/pytorch-lightning/pull/19446), keeps up to 100 lines to itself, and loses earlier
    lines when it is killed while it writes a new column.

    Args:
        save_dir: the run's folder.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self._columns: list[str] | None = None  # known once the file was read

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        """As CSVLogger has it, for callbacks that ask."""
        return self.save_dir

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run's config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        line = {key: value.item() if isinstance(value, Tensor) else value for key, value in metrics.items()}
        line["step"] = step
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with adding_to(self.path):
            columns = self._columns_with(line)
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, columns).writerow(line)

    def forget_after(self, step: int) -> None:
        """Drops the lines of later steps, which a run that goes on from `step` will write again, and a torn one."""
        if not self.path.is_file():
            return
        columns, rows = _read(self.path)
        kept = (row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= step)
        write_text(self.path, _text(_in_order(columns), kept))

    def _columns_with(self, line: dict[str, Any]) -> list[str]:
        """The file's columns, after those that it lacked were added to it."""
        if self._columns is None:
            self._columns = _read(self.path)[0]
        if new := {*line} - {*self._columns}:
            self._columns = _in_order([*self._columns, *new])
            write_text(self.path, _text(self._columns, _read(self.path)[1]))
        elif not self.path.is_file():
            write_text(self.path, _text(self._columns, ()))
        return self._columns


def _in_order(columns: Iterable[str]) -> list[str]:
    return sorted(columns, key=lambda name: (name != "step", name))


def _text(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
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

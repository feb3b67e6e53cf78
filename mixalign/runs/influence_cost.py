"""What it costs to measure influence between rounds: rows, passes, time, and the sum over a run's rounds."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixalign.files import read_json
from mixalign.influence.rows import few_read, rows_read
from mixalign.influence.settings import Influence
from mixalign.jobs.job import Job

__all__ = ["TimeEstimate", "influence_of", "influence_text", "row_passes", "sum_of_rounds"]

MOST, LEAST = 256, 64
"""Rows of a table under `influence.samples=auto`: 256 are reliable, 64 mostly right, 16 noise."""
FIRST = 3  # batches behind an estimate
PARTS = {"training": "cost.json", "influence": "cost_influence.json"}


def influence_of(job: Job) -> Influence:
    """The settings of influence with a number of rows for `auto`.

    As many rows of each table as make no more forward and backward passes than a round's training, but at least 64
    and at most 256.
    """
    influence = job.settings.influence
    if influence.samples != "auto":
        return influence
    choices = [replace(influence, samples=number) for number in range(LEAST, MOST + 1)]
    affordable = job.steps * job.settings.batch_size
    return next((one for one in reversed(choices) if _row_passes(job, one)[1] <= affordable), choices[0])


def row_passes(job: Job) -> tuple[int, int]:
    """Rows that are read, and forward and backward passes over a row in all."""
    return _row_passes(job, influence_of(job))


def _row_passes(job: Job, influence: Influence) -> tuple[int, int]:
    samples, sampling = influence.most_rows, influence.sampling
    rows_K, rows_R = (
        [rows_read(len(t), samples, sampling) for t in tables] for tables in (job.data["train"], job.targets)
    )
    few = sum(few_read(rows) for rows in (*rows_K, *rows_R))
    return sum(rows_K) + sum(rows_R), sum(rows_K) * influence.passes + sum(rows_R) + few


def influence_text(job: Job) -> str:
    """The rows that are read, and how many steps of training have as many passes."""
    rows, passes = row_passes(job)
    tables = len(job.tasks) + len(job.targets)
    steps = passes / job.settings.batch_size
    return f"{rows:,} rows of {tables} tables, {passes:,} passes over a row: as many as {steps:,.0f} steps of training"


class TimeEstimate:
    """Says once, from the first batches, how long all of them will take.

    Args:
        say: gets the seconds from the beginning to the end.
    """

    def __init__(self, say: Callable[[float], None]) -> None:
        self.say: Callable[[float], None] | None = say
        self.began = time.perf_counter()
        self.calls = 0

    def __call__(self, share: float) -> None:
        """Takes the share of the work, in tokens, that is done."""
        self.calls += 1
        if self.say is not None and self.calls >= FIRST and share > 0:
            self.say((time.perf_counter() - self.began) / share)
            self.say = None


def sum_of_rounds(folder: Path, numbers: list[int]) -> dict[str, Any]:
    """The run's `cost.json`: what its rounds and the influence between them cost in all, and each of them.

    What came from the cache counts as what it cost when it was made. `sums_up` tells readers that the parts are in
    files of their own.
    """
    parts = [(n, {name: _record(folder / str(n) / file) for name, file in PARTS.items()}) for n in numbers]
    records = [record for _, entry in parts for record in entry.values() if record]
    total: dict[str, Any] = {key: sum(r.get(key) or 0 for r in records) for key in ("steps", "seconds", "cpu_seconds")}
    memory = [r["memory_mib"] for r in records if r.get("memory_mib") is not None]
    total |= {"memory_mib": max(memory, default=None), "memory_of": records[0].get("memory_of") if records else None}
    return {"sums_up": True} | total | {"rounds": [{"round": n} | entry for n, entry in parts]}


def _record(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None

"""What was spent beside the generalist's own training: records in the cache, and sums of them for a run's cost.json."""

import math
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mixalign.errors import MixalignError
from mixalign.files import read_json, write_json
from mixalign.fingerprint import fingerprint
from mixalign.jobs.job import Job
from mixalign.together.agree import is_first, world
from mixalign.training.meter import Meter
from mixalign.training.threads import usable_cpus

__all__ = ["metered", "speeds", "spent_on"]


@contextmanager
def metered(job: Job, recipe: Mapping[str, Any]) -> Iterator[Meter]:
    """Records what it costs to make something of the cache, under the fingerprint of its recipe.

    What its work was is recorded beside, and what decides how fast that goes, so that later runs can estimate theirs.
    """
    with Meter(job.device) as cost:
        yield cost
    if is_first():
        of: dict[str, Any] = {"work": dict(cost.work), "on": _conditions(job)} if cost.work else {}
        if cost.steps is not None:
            of["steps"] = cost.steps
        write_json(_record(job, recipe), cost.state_dict() | of)


def speeds(job: Job, processes: int | None = None) -> dict[str, tuple[float, int]]:
    """How fast work goes with the job's model, adapter, trainer and engine on such a machine.

    Args:
        processes: that share the work; None: those that there are now.

    Returns:
        kind of work -> (seconds a unit by the clock, how many records of the cache say so); nothing where none does.
    """
    on, found = _conditions(job, processes), defaultdict[str, list[tuple[float, float]]](list)
    for path in sorted((job.cache / "costs").glob("*.json")):
        with suppress(MixalignError, OSError):
            record = read_json(path)
            if record.get("on") == on and len(record["work"]) == 1:
                ((kind, units),) = record["work"].items()
                found[kind].append((float(record["seconds"]), float(units)))
    sums = {kind: tuple(map(sum, zip(*records, strict=True))) for kind, records in found.items()}
    return {kind: (seconds / units, len(found[kind])) for kind, (seconds, units) in sums.items() if units}


def _conditions(job: Job, processes: int | None = None) -> str:
    """A fingerprint of what decides how long a unit of work takes."""
    plain, gpu = job.settings.plain, job.device == "cuda"
    machine = torch.cuda.get_device_name() if gpu else f"{platform.machine()}, {usable_cpus()} CPUs"
    parts = {key: plain[key] for key in ("model", "lora", "trainer", "engine")}
    return fingerprint(parts | {"machine": machine, "processes": processes or world()})


def spent_on(job: Job, recipes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Optimizer steps and seconds behind things of the cache, in all.

    Returns:
        `steps`, of the recipes unless a record says that a training ended early; `seconds` and `cpu_seconds`, None
        when the record of one is missing.
    """
    records = [read_json(path) if path.is_file() else {} for path in map(partial(_record, job), recipes)]
    planned = [recipe.get("fit", {}).get("steps", 0) for recipe in recipes]
    steps = sum(record.get("steps", number) for record, number in zip(records, planned, strict=True))
    total = {key: sum(record.get(key, math.nan) for record in records) for key in ("seconds", "cpu_seconds")}
    return {"steps": steps} | {key: None if math.isnan(value) else value for key, value in total.items()}


def _record(job: Job, recipe: Mapping[str, Any]) -> Path:
    return job.cache / "costs" / f"{fingerprint(recipe)}.json"

"""What was spent beside the generalist's own training: records in the cache, and sums of them for a run's cost.json."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mixalign.files import read_json, write_json
from mixalign.fingerprint import fingerprint
from mixalign.jobs.job import Job
from mixalign.together.agree import is_first
from mixalign.training.meter import Meter

__all__ = ["metered", "spent_on"]


@contextmanager
def metered(job: Job, recipe: Mapping[str, Any]) -> Iterator[Meter]:
    """Records what it costs to make something of the cache, under the fingerprint of its recipe."""
    with Meter(job.device) as cost:
        yield cost
    if is_first():
        write_json(_record(job, recipe), cost.state_dict())


def spent_on(job: Job, recipes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Optimizer steps and seconds behind things of the cache, in all.

    Returns:
        `steps`, from the recipes; `seconds` and `cpu_seconds`, None when the record of one is missing.
    """
    steps = sum(recipe.get("fit", {}).get("steps", 0) for recipe in recipes)
    records = [read_json(path) if path.is_file() else {} for path in map(partial(_record, job), recipes)]
    total = {key: sum(record.get(key, math.nan) for record in records) for key in ("seconds", "cpu_seconds")}
    return {"steps": steps} | {key: None if math.isnan(value) else value for key, value in total.items()}


def _record(job: Job, recipe: Mapping[str, Any]) -> Path:
    return job.cache / "costs" / f"{fingerprint(recipe)}.json"

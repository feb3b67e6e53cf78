"""Specialists that were trained with the settings of another run (`specialists.of`), so that excess compares."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixalign.config.build import build
from mixalign.errors import MixalignError
from mixalign.files import read_json
from mixalign.fingerprint import differences
from mixalign.jobs.job import Job

__all__ = ["as_trained", "check_comparable"]

MEASURES = {  # entries of a recipe by which losses are measured -> how a user knows them
    "start": "the reference policy",
    "rows": "the training rows",
    "objective": "the objective",
}


def as_trained(job: Job) -> Job:
    """The job with the settings that its specialists are trained with."""
    found = job.settings.specialists.trained_with
    if found is None:
        return job
    nodes = {key: found[key] for key in ("optimizer", "lora")}
    settings = replace(job.settings, **{key: build(node) for key, node in nodes.items()})
    precision = job.precision if found["precision"] == "auto" else str(found["precision"])
    return replace(job, settings=replace(settings, plain={**settings.plain, **nodes}), precision=precision)


def check_comparable(job: Job, recipes: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses the specialists of a run whose losses are measured by something else than this one's.

    Args:
        recipes: of this run's specialists, by task.

    Raises:
        MixalignError: naming what differs: rows, reference policy or objective.
    """
    of = job.settings.specialists.of
    path = Path(str(of)) / "specialists.json"
    if of is None or not path.is_file():
        return
    theirs = read_json(path)
    for task, recipe in recipes.items():
        wrong = [] if task in theirs else [f"it has no task `{task}`"]
        for key, name in MEASURES.items() if not wrong else ():
            then, now = ({key: one.get(key)} for one in (theirs[task], recipe))
            found = differences(then, now)
            wrong += found if key == "objective" else [f"{name} of `{task}` is another"] * bool(found)
        if wrong:
            raise MixalignError(
                f"`specialists.of={of}`: the losses of that run's specialists do not compare with this run's: "
                f"{'; '.join(wrong)}. Restore what differs, or leave `specialists.of` out."
            )

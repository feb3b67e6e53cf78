"""What those who get a run's model want to know, and only its beginning knows: command, names on a hub, versions."""

import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mixalign import __version__
from mixalign.jobs.job import Job
from mixalign.jobs.tasks import task_specs

__all__ = ["origin_of"]

LIBRARIES = ("torch", "lightning", "transformers", "peft", "datasets", "tokenizers")
ON_A_HUB = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def origin_of(job: Job, overrides: Sequence[str]) -> dict[str, Any]:
    """The entry `origin` of `identity.json`.

    Args:
        overrides: configuration keys of the command.

    Returns:
        `overrides`; `base_model`, its id on a hub, or null; `data_sets`, those of the tasks that came from a hub;
        `versions` of the libraries, as far as they are installed.
    """
    versions = {"mixalign": __version__}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    specs = task_specs(job.settings.data)
    data_sets = {task: name for task in job.tasks if (name := _on_a_hub(specs[task].path))}
    base_model = _on_a_hub(getattr(job.settings.model, "path", None))
    return {"overrides": [*overrides], "base_model": base_model, "data_sets": data_sets, "versions": versions}


def _on_a_hub(path: Any) -> str | None:
    """The path, if it is the name of a repository: it was read, and is no file or folder here."""
    text = str(path or "")
    return text if ON_A_HUB.fullmatch(text) and not Path(text).exists() else None

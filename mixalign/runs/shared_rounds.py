"""Round 0 of runs in rounds and its influence: both are the same whatever the rule does next, so the cache keeps them.

A sweep over `mixer.m`, `decay`, `floor` and their like makes them once.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mixalign.files import copy_whole, read_numbers, replacing, write_json
from mixalign.fingerprint import fingerprint
from mixalign.frozen.recipes import rounding_recipe
from mixalign.jobs.job import rows_fingerprint
from mixalign.runs.folder import that_matter
from mixalign.runs.train_one import Generalist
from mixalign.together.agree import is_first, wait
from mixalign.together.locks import made_once
from mixalign.training.average_share import CHOSEN

__all__ = ["round_recipe", "shared_influence", "shared_round"]

log = logging.getLogger(__name__)

FILES = ("mixture.json", "mix.jsonl", "metrics.csv", "cost.json", "eval.json")  # the last says that it is finished
LATER = ("mixer.", "influence.")  # groups of settings that count after the round


def round_recipe(run: Generalist, volumes: Mapping[str, int], steps: int) -> dict[str, Any]:
    """All that decides what a round's training makes."""
    job = run.job
    later = LATER if run.has_specialists else (*LATER, "specialists.")
    settings = {key: value for key, value in that_matter(job.plain).items() if not key.startswith(later)}
    export = settings.get("export")
    if export != "averaged":
        settings.pop("export", None)  # a round keeps its last weights
    if export in CHOSEN or settings.get("average_last") is None:
        settings.pop("average_last", None)  # a round has no mean then, and in older caches there is no such key
    return rounding_recipe(job) | {
        "stage": "round",
        "mixer": job.settings.mixer_name,
        "settings": settings,
        "start": run.reference.identity,
        "rows": {split: rows_fingerprint(tables) for split, tables in job.data.items()},
        "volumes": dict(volumes),
        "steps": steps,
        "precision": job.precision,
        "specialists": run.has_specialists,
    }


def shared_round(run: Generalist, recipe: Mapping[str, Any], folder: Path, train: Callable[[], Any]) -> None:
    """Fills a round's folder from the cache, or trains it there and puts a copy into the cache.

    Args:
        recipe: from `round_recipe`.
        train: fills the folder, on all processes.
    """
    place = run.job.cache / "rounds" / fingerprint(recipe)
    with made_once(place / "recipe.json", run.job.cache / "locks") as missing:
        if missing:
            train()
            wait()
            if is_first():
                with replacing(place) as part:
                    _copy(folder, part)
                    write_json(part / "recipe.json", recipe)
        else:
            log.info("round 0 is in the cache, and not trained again: %s", place)
            if is_first():
                _copy(place, folder)
    wait()


def shared_influence(
    run: Generalist, recipe: Mapping[str, Any], measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What was measured of a round by this recipe: from the cache, or measured and put there.

    Args:
        measure: on all processes.
    """
    path = run.job.cache / "influence" / f"{fingerprint(recipe)}.json"
    with made_once(path, run.job.cache / "locks") as missing:
        if missing:
            measured = measure()
            if is_first():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, measured)
        else:
            log.info("the influence of round 0 is in the cache, and not measured again: %s", path)
    wait()
    return read_numbers(path)


def _copy(source: Path, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for name in ("model", *FILES):
        copy_whole(source / name, to / name)

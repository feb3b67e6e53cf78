"""What a run's excess is counted over: written beside its results, and the same when the run goes on."""

from functools import partial
from pathlib import Path
from typing import Any

from mixalign.errors import MixalignError
from mixalign.files import read_json, write_json
from mixalign.fingerprint import differences, fingerprint
from mixalign.frozen.cache import Frozen
from mixalign.frozen.specialists import specialist_recipes
from mixalign.jobs.job import Job
from mixalign.together.agree import decide

__all__ = ["SPECIALISTS", "excess_over", "keep_specialists"]

SPECIALISTS = "specialists.json"


def excess_over(job: Job, reference: Frozen) -> dict[str, Any]:
    """An entry of `eval.json`, where its rows carry specialists' losses: which ones; excess compares over one set only.

    Returns:
        `excess_over`: the fingerprint of the `reference` policy, and of each task's `specialists`, their recipe; empty
        where there is no excess.
    """
    if not any("specialist_loss" in table.columns for table in job.data["validation"]):
        return {}
    specialists = {task: fingerprint(recipe) for task, recipe in specialist_recipes(job, reference).items()}
    return {"excess_over": {"reference": reference.identity, "specialists": specialists}}


def keep_specialists(folder: Path, job: Job, reference: Frozen) -> None:
    """Writes `specialists.json`, the recipe of each task's specialist; a run that goes on must find the same.

    Raises:
        MixalignError: when the run began with others, naming what differs.
    """
    recipes = specialist_recipes(job, reference)
    if problem := decide(partial(_difference, folder, recipes)):
        raise MixalignError(problem)
    decide(partial(write_json, folder / SPECIALISTS, recipes))


def _difference(folder: Path, recipes: dict[str, Any]) -> str:
    path = folder / SPECIALISTS
    wrong = differences(read_json(path), recipes) if path.is_file() else []
    if not wrong:
        return ""
    return (
        f"The specialists of the run in {folder} are others than when it began ({'; '.join(wrong)}): its excess would "
        "not be one number. Restore what differs, or give another `run_dir`."
    )

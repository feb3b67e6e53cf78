"""`mixalign merge`: one model out of several, and merges of a run's specialists as runs of their own.

Merging is the baseline that trains no generalist: the specialists of all tasks, averaged.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from mixalign.errors import MixalignError
from mixalign.evaluation.summary import eval_table
from mixalign.files import write_json
from mixalign.fingerprint import fingerprint
from mixalign.models.merge_files import Merged, fresh_folder, merge_folders
from mixalign.models.merge_methods import METHODS, Merge
from mixalign.pipelines.build import plain, register_resolvers
from mixalign.pipelines.costs import spent_on
from mixalign.pipelines.generalist import save_model
from mixalign.pipelines.job import Job, prepare, rows_fingerprint
from mixalign.pipelines.merge_search import Search, evaluate_model, search_weights
from mixalign.pipelines.ranks import alone
from mixalign.pipelines.run_config import read_config
from mixalign.pipelines.stages import (
    Frozen,
    attach_reference,
    attach_specialists,
    find_specialists,
    reference_policy,
)
from mixalign.training.meter import Meter

__all__ = ["merge_specialists", "merges_of", "run", "run_merges"]

log = logging.getLogger(__name__)


def run(
    models: Sequence[Path],
    how: Merge,
    *,
    base: Path | None = None,
    out: Path | None = None,
    specialists: Path | None = None,
    search: Path | None = None,
    settings: Search | None = None,
) -> None:
    """Merges models into a folder, or the specialists of a run into a run folder beside it.

    Args:
        models: folders of models or adapters, runs, or cached specialists.
        specialists: a run whose specialists are merged in place of `models`.
        search: a run on whose validation rows weights are searched; the base is its reference unless given.

    Raises:
        MixalignError: when arguments contradict each other, or the models do not fit.
    """
    if bool(models) == bool(specialists):
        raise MixalignError("Name either the models to merge, or one run by --specialists.")
    if search and how.weights:
        raise MixalignError("--search finds weights, so --weights cannot be given. Leave one of them out.")
    settings = settings or Search()
    if specialists:
        if base or (search and search.resolve() != specialists.resolve()):
            raise MixalignError("The base and the rows of --specialists RUN are the run's own: no --base, same RUN.")
        job, reference = _open_run(specialists)
        folder = out or _beside(specialists, how.method)
        result = merge_specialists(job, reference, how, folder, settings if search else None)
        print(f"{eval_table(result)}\nrun folder: {folder}")
        return
    if out is None:
        raise MixalignError("Where should the merge go? Add --out FOLDER.")
    if search:
        job, reference = _open_run(search)
        with fresh_folder(out) as folder, _base_folder(job, reference) as start:
            merged = Merged(models, how, base or start)
            search_weights(job, reference, merged, settings, folder)
            merged.write(folder)
    else:
        merge_folders(models, how, out, base)
    print(f"merge: {out}")


def merges_of(cfg: DictConfig, num_tasks: int) -> list[Merge]:
    """The merges that `merge.methods` asks for; call it before training, to refuse what cannot be merged.

    Raises:
        MixalignError: for unknown methods, weights that do not match the tasks, or slerp with other than two tasks.
    """
    given = plain(cfg.get("merge"))
    merges = []
    for method in given.get("methods") or ():
        how = Merge(method, given["weights"], density=given["density"], seed=cfg.seed)
        if METHODS[method].on_deltas:
            how = replace(how, scale=given["scale"])
        how.weight_M(num_tasks)
        if how.weights and given["trials"]:
            raise MixalignError("`merge.trials` searches weights, so `merge.weights` must be null, or trials 0.")
        merges.append(how)
    return merges


def run_merges(job: Job, reference: Frozen, run_dir: Path) -> None:
    """Merges the specialists of a finished run by every method of `merge.methods`: a run folder each, beside it.

    Runs of a sweep that have the same specialists make each merge once between them, also when they run side by side.
    """
    merges = merges_of(job.cfg, len(job.tasks))
    if merges and torch.distributed.is_initialized():
        log.warning("merge: left out, for several processes train. Do it now: mixalign merge --specialists %s", run_dir)
        return
    search = Search(job.cfg.merge.trials) if merges and job.cfg.merge.trials else None
    for how in merges:
        folder = _beside(run_dir, how.method)
        wanted = _recipe(job, reference, how, search)
        with alone(job.cache / "locks" / "merges" / fingerprint(wanted)):
            same = [path for path in folder.parent.glob(f"*_merge_{how.method}") if _recipe_of(path) == wanted]
            if same:  # the run was resumed, or another mixer of a sweep has the same specialists
                log.info("merge: %s is there already", same[0])
                continue
            result = merge_specialists(job, reference, how, folder, search)
        print(f"{eval_table(result)}\nrun folder: {folder}")


def merge_specialists(
    job: Job, reference: Frozen, how: Merge, folder: Path, search: Search | None = None
) -> dict[str, Any]:
    """Merges the cached specialists, and evaluates the merge as a generalist is evaluated.

    Args:
        folder: gets config.yaml (with the merge as its `mixer`), recipe.json, eval.json and model/, so that reports
            take it for a run of the mixer `merge_<method>`.
        search: None takes the weights as they are.

    Returns:
        What `eval.json` holds.

    Raises:
        MixalignError: when a specialist is missing, or the folder is taken.
    """
    places = {task: place for task, (place, _) in find_specialists(job, reference).items()}
    missing = [task for task, place in places.items() if not (place / "model").is_dir()]
    if missing:
        raise MixalignError(
            f"The specialist of `{missing[0]}` is not at {places[missing[0]]}. Train it: `mixalign specialists` or "
            "`mixalign train specialists.train=always`, with the settings and the cache of this run."
        )
    attach_reference(job, reference)  # again: a live reference takes its columns away
    attach_specialists(job, reference, train=False)
    with fresh_folder(folder) as part, _base_folder(job, reference) as base:
        with Meter(job.device) as cost:
            merged = Merged(list(places.values()), how, base)
            if search:
                search_weights(job, reference, merged, search, part)
            (part / "model").mkdir()
            merged.write(part / "model")
        behind = {"specialists": spent_on(job, [recipe for _, recipe in find_specialists(job, reference).values()])}
        write_json(part / "cost.json", {"steps": 0} | cost.state_dict() | {"leans_on": behind})
        settings = asdict(merged.how) | {"weights": merged.weight_M.tolist()}
        config = cast(dict[str, Any], OmegaConf.to_container(job.cfg, resolve=True))
        config |= {"name": f"merge_{how.method}", "run_dir": None, "mixer": {"name": f"merge_{how.method}"} | settings}
        (part / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
        write_json(part / "recipe.json", _recipe(job, reference, how, search))
        result = evaluate_model(job, reference, part / "model", how.method, _final_split(job))
        write_json(part / "eval.json", result)
    return result


def _final_split(job: Job) -> str:
    return "test" if "test" in job.data else "validation"


def _recipe(job: Job, reference: Frozen, how: Merge, search: Search | None) -> dict[str, Any]:
    """All that decides the numbers of a merge of specialists, as JSON reads it."""
    recipe = {
        "merge": asdict(how),
        "search": asdict(search) | {"rows": rows_fingerprint(job.data["validation"])} if search else None,
        "specialists": [recipe for _, recipe in find_specialists(job, reference).values()],
        "rows": rows_fingerprint(job.data[_final_split(job)]),
    }
    return json.loads(json.dumps(recipe))


def _recipe_of(folder: Path) -> dict[str, Any] | None:
    """That of a merge that was made before; None for any other folder."""
    path = folder / "recipe.json"
    return json.loads(path.read_text()) if path.is_file() else None


@contextmanager
def _base_folder(job: Job, reference: Frozen) -> Iterator[Path]:
    """The reference policy as a folder: in the cache, or written for as long as it is needed."""
    cached = job.cache / "reference" / reference.identity / "model"
    if cached.is_dir():
        yield cached
        return
    job.cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=job.cache, prefix=".base") as folder:
        save_model(reference.build(), job.tokenizer, Path(folder))
        yield Path(folder)


def _beside(run_dir: Path, method: str) -> Path:
    return run_dir.resolve().with_name(f"{run_dir.resolve().name}_merge_{method}")


def _open_run(run_dir: Path) -> tuple[Job, Frozen]:
    """The job of a run folder, with the scores of its frozen models on every row."""
    register_resolvers()
    job = prepare(read_config(run_dir))
    reference = reference_policy(job)
    attach_reference(job, reference)
    attach_specialists(job, reference, train=False)
    return job, reference

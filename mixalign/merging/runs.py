"""`mixalign merge`: one model out of several, and merges of a run's specialists as runs of their own.

Merging is the baseline that trains no generalist: the specialists of all tasks, averaged.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mixalign.config.settings import RunSettings
from mixalign.errors import MixalignError
from mixalign.files import may_write, write_json
from mixalign.fingerprint import fingerprint
from mixalign.frozen.cache import Frozen
from mixalign.frozen.costs import spent_on
from mixalign.frozen.policy import attach_reference
from mixalign.frozen.scored import scored
from mixalign.frozen.specialists import attach_specialists, find_specialists
from mixalign.jobs.job import Job, prepare, rows_fingerprint
from mixalign.locks import alone
from mixalign.merging.methods import METHODS, Merge
from mixalign.merging.search import Search, search_weights
from mixalign.merging.write import Merged, fresh_folder, merge_folders
from mixalign.runs.evaluate import evaluate_folder
from mixalign.runs.folder import read_settings, write_config
from mixalign.runs.generations import Generations, with_generations
from mixalign.runs.identity import begun_tasks, check_measured, write_identity
from mixalign.runs.portable import where_it_began
from mixalign.runs.start import start_losses, with_start
from mixalign.runs.summary import eval_table, write_results
from mixalign.runs.yardstick import keep_specialists
from mixalign.stopping import stage
from mixalign.terminal import say_result
from mixalign.together.agree import world
from mixalign.training.meter import Meter
from mixalign.training.sharding import save_model

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
) -> Path:
    """Merges models into a folder, or the specialists of a run into a run folder beside it.

    Args:
        models: folders of models or adapters, runs, or cached specialists.
        specialists: a run whose specialists are merged in place of `models`.
        search: a run on whose validation rows weights are searched; the base is its reference unless given.

    Returns:
        The folder that was made.

    Raises:
        MixalignError: when arguments contradict each other, or the models do not fit.
    """
    if bool(models) == bool(specialists):
        raise MixalignError("Name either the models to merge, or one run by --specialists.")
    if search and how.weights:
        raise MixalignError("--search finds weights, so --weights cannot be given. Leave one of them out.")
    models, base, out = [path.absolute() for path in models], base and base.absolute(), out and out.absolute()
    if specialists:
        if base or (search and search.resolve() != specialists.resolve()):
            raise MixalignError("The base and the rows of --specialists RUN are the run's own: no --base, same RUN.")
        with where_it_began(specialists) as run_dir:
            job, reference = _open_run(run_dir)
            folder = out or _beside(run_dir, how.method)
            result = merge_specialists(job, reference, how, folder, (settings or Search()) if search else None)
        say_result(f"{eval_table(result)}\nrun folder: {folder}")
        return folder
    if out is None:
        raise MixalignError("Where should the merge go? Add --out FOLDER.")
    if search:
        with where_it_began(search) as run_dir:
            job, reference = _open_run(run_dir)
            with fresh_folder(out) as folder, _base_folder(job, reference) as start:
                merged = Merged(models, how, base or start)
                search_weights(job, reference, merged, settings or Search(), folder)
                merged.write(folder)
    else:
        merge_folders(models, how, out, base)
    say_result(f"merge: {out}")
    return out


def merges_of(settings: RunSettings, num_tasks: int) -> list[Merge]:
    """The merges that `merge.methods` asks for; call it before training, to refuse what cannot be merged.

    Raises:
        MixalignError: for unknown methods, weights that do not match the tasks, or slerp with other than two tasks.
    """
    wanted, merges = settings.merge, []
    for method in wanted.methods:
        merge = Merge(method, wanted.weights, density=wanted.density, seed=settings.seed)
        if METHODS[method].on_deltas:
            merge = replace(merge, scale=wanted.scale)
        merge.weight_M(num_tasks)
        if merge.weights and wanted.trials:
            raise MixalignError("`merge.trials` searches weights, so `merge.weights` must be null, or trials 0.")
        merges.append(merge)
    return merges


def run_merges(job: Job, reference: Frozen, run_dir: Path, train: bool = False, kept: bool = True) -> list[Path]:
    """Merges the specialists of a finished run by every method of `merge.methods`: a run folder each, beside it.

    Runs of a sweep that have the same specialists make each merge once between them, also when they run side by side.

    Args:
        train: whether specialists that are gone since are trained again, where a merge is still to be made.
        kept: whether the merges' folders are, and are worth a word.

    Returns:
        The folders that were made now.
    """
    made: list[Path] = []
    merges = merges_of(job.settings, len(job.tasks))
    if merges and world() > 1:
        log.warning("merge: left out, for several processes train. Do it now: mixalign merge --specialists %s", run_dir)
        return made
    search = Search(trials) if (trials := job.settings.merge.trials) else None
    for how in merges:
        folder = _beside(run_dir, how.method)
        wanted = _recipe(job, reference, how, search)
        merging = stage(f"the merge by {how.method}", f"the run in {run_dir} is finished")
        lock = job.cache / "locks" / "merges" / fingerprint(wanted)
        with merging, alone(lock) if may_write(lock.parent) else nullcontext():  # else it may be made twice
            same = [path for path in folder.parent.glob(f"*_merge_{how.method}") if _recipe_of(path) == wanted]
            if same:  # the run was resumed, or another mixer of a sweep has the same specialists
                log.info("merge: %s is there already", same[0])
                continue
            result = merge_specialists(job, reference, how, folder, search, train)
        made.append(folder)
        say_result(eval_table(result) + (f"\nrun folder: {folder}" if kept else ""))
    return made


def merge_specialists(
    job: Job, reference: Frozen, how: Merge, folder: Path, search: Search | None = None, train: bool = False
) -> dict[str, Any]:
    """Merges the cached specialists, and evaluates the merge as a generalist is evaluated.

    Args:
        folder: gets config.yaml (with the merge as its `mixer`), recipe.json, eval.json and model/, so that reports
            take it for a run of the mixer `merge_<method>`.
        search: None takes the weights as they are.
        train: whether to train the specialists that are missing.

    Returns:
        What `eval.json` holds.

    Raises:
        MixalignError: when a specialist is missing, or the folder is taken.
    """
    specialists = find_specialists(job, reference)
    places = {task: model.place for task, model in specialists.items()}
    missing = [task for task, place in places.items() if not (place / "model").is_dir()]
    if missing and not train:
        raise MixalignError(
            f"The specialist of `{missing[0]}` is not at {places[missing[0]]}. Train it: `mixalign specialists` or "
            "`mixalign train specialists.train=always`, with the settings and the cache of this run."
        )
    attach_reference(job, reference)  # again: a live reference takes its columns away
    attach_specialists(job, reference, train)
    name = f"merge_{how.method}"
    with fresh_folder(folder) as part, _base_folder(job, reference) as base:
        with Meter(job.device) as cost:
            merged = Merged(list(places.values()), how, base)
            if search:
                search_weights(job, reference, merged, search, part)
            (part / "model").mkdir()
            merged.write(part / "model")
        behind = {"specialists": spent_on(job, [model.recipe for model in specialists.values()])}
        write_json(part / "cost.json", {"steps": 0} | cost.state_dict() | {"leans_on": behind})
        mixer = {"name": name} | asdict(merged.how) | {"weights": merged.weight_M.tolist()}
        write_identity(part, job, start=reference.identity)
        keep_specialists(part, job, reference)
        write_config(part, job, name=name, run_dir=None, mixer=mixer)
        write_json(part / "recipe.json", _recipe(job, reference, how, search))
        start = start_losses(job, reference, job.final_split)  # before the columns of the reference may go
        result = with_start(evaluate_folder(job, reference, part / "model", job.final_split), start)
        result |= {"mixer": name, "static": True}
        write_results(part / "eval.json", result)
        return with_generations(Generations.of(job, reference, job.final_split), reference, part)


def _recipe(job: Job, reference: Frozen, how: Merge, search: Search | None) -> dict[str, Any]:
    """All that decides the numbers of a merge of specialists, as JSON reads it."""
    recipe = {
        "merge": asdict(how),
        "search": asdict(search) | {"rows": rows_fingerprint(job.data["validation"])} if search else None,
        "specialists": [model.recipe for model in find_specialists(job, reference).values()],
        "rows": rows_fingerprint(job.data[job.final_split]),
    }
    as_read: dict[str, Any] = json.loads(json.dumps(recipe))
    return as_read


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
    place = job.cache if may_write(job.cache) else None  # None: where the system has such folders
    if place:
        place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place, prefix=".base") as folder:
        save_model(reference.build(), job.tokenizer, Path(folder))
        yield Path(folder)


def _beside(run_dir: Path, method: str) -> Path:
    return run_dir.resolve().with_name(f"{run_dir.resolve().name}_merge_{method}")


def _open_run(run_dir: Path) -> tuple[Job, Frozen]:
    """The job of a run folder, with the scores of its frozen models on every row."""
    job = prepare(read_settings(run_dir), begun_tasks(run_dir))
    return scored(job, check=partial(check_measured, run_dir), finished=run_dir)

"""Trains a generalist on several tasks; -m sweeps: mixer=uniform,ama_s seed=0,1."""

import logging
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from mixalign.config.command_line import NO_FOLDER, is_sweep, with_settings
from mixalign.config.parse import check_place
from mixalign.config.settings import RunSettings
from mixalign.config.sweep_specialists import changes_specialists, note_swept, pin_to_first, swept
from mixalign.errors import MixalignError
from mixalign.frozen.batch_sizes import with_sizes_of
from mixalign.frozen.cache import Frozen
from mixalign.frozen.policy import attach_reference, reference_policy
from mixalign.frozen.specialists import attach_specialists
from mixalign.frozen.worse import warn_of_useless
from mixalign.jobs.job import Job, prepare
from mixalign.merging.runs import merges_of, run_merges
from mixalign.mixers.base import Rule
from mixalign.reporting.show.card import leave_card
from mixalign.runs.check import check_checkpoint, check_run, check_together, needs_specialists
from mixalign.runs.claim import Claim, check_extension, claim, set_aside, still_there
from mixalign.runs.dev_run import trial
from mixalign.runs.folder import read_plain, write_config
from mixalign.runs.generations import Generations, with_generations
from mixalign.runs.identity import (
    begun_specialists,
    begun_tasks,
    check_identity,
    check_resumed,
    write_identity,
    write_specialists,
)
from mixalign.runs.notes import chosen_of, notes_of
from mixalign.runs.proxy import run_proxy, with_baseline
from mixalign.runs.rounds import run_rounds
from mixalign.runs.stages import begin_course
from mixalign.runs.start import start_losses
from mixalign.runs.summary import eval_table, remarks
from mixalign.runs.train_one import Generalist, train_generalist
from mixalign.runs.yardstick import keep_specialists
from mixalign.stopping import stage
from mixalign.terminal import say_result
from mixalign.together.agree import decide
from mixalign.together.hold import held
from mixalign.together.start import on_all_ranks

__all__ = ["main", "run"]

log = logging.getLogger(__name__)
TRIAL = re.compile(r"\+*(trainer\.)?fast_dev_run=true", re.IGNORECASE)
MOVING = (
    "specialists change with %s, so that excess does not compare between the runs of this sweep: its value is the "
    "worst loss. `specialists.of=first` gives all runs those of the first."
)

P = ParamSpec("P")


def _named(
    job: Callable[Concatenate[RunSettings, Path, P], dict[str, Any]],
) -> Callable[Concatenate[RunSettings, Path, P], dict[str, Any]]:
    """Says, when a run is stopped, how to go on with it."""

    @wraps(job)
    def named(settings: RunSettings, run_dir: Path, /, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        with stage("", f"what is finished is kept in {settings.cache_dir}", _again(run_dir)):
            return job(settings, run_dir, *args, **kwargs)

    return named


def _again(run_dir: Path) -> str:
    """How to go on with a run; its folder, of a sweep the one above its runs, may have been named by Hydra."""
    folder = Path(HydraConfig.get().sweep.dir) if is_sweep() else run_dir
    return f"The same command with run_dir={folder} goes on from there.{still_there(run_dir)}"


def main() -> None:
    """`mixalign train` with what stands behind it on the command line."""

    moving: list[str] = []

    def look(config: DictConfig) -> None:
        if is_sweep():
            moving[:] = changes_specialists(config, swept())
            pin_to_first(config)

    def job(settings: RunSettings) -> float:
        hydra = HydraConfig.get()
        in_sweep = is_sweep()
        if moving and hydra.job.num == 0:
            log.info(MOVING, ", ".join(moving))
        result = run(settings, Path(hydra.runtime.output_dir), in_sweep, [*hydra.overrides.task])
        has_one_set = not moving and (settings.specialists.train != "never" or settings.specialists.dir)
        return swept_value(result, over_specialists=bool(has_one_set) or not in_sweep)

    def ended(folder: str) -> None:
        if not trial_run:
            _say(f"\nnext: `mixalign report {shlex.quote(folder)}` compares the runs")

    trial_run = any(TRIAL.fullmatch(text) for text in sys.argv[1:])
    note_swept(sys.argv[1:])
    with_settings(job, *(NO_FOLDER if trial_run else ()), before=look, ended=ended)


def swept_value(result: dict[str, Any], over_specialists: bool) -> float:
    """What a sweeper that searches minimises: the worst excess, or the worst loss where runs have other specialists.

    Args:
        result: what `eval.json` holds.
    """
    worst = result["worst"]
    chosen = worst.get("excess", worst["loss"]) if over_specialists else worst["loss"]
    return float(chosen["value"])


@on_all_ranks
@_named
def run(settings: RunSettings, run_dir: Path, in_sweep: bool = False, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Trains a generalist and fills its run folder.

    Args:
        run_dir: gets config.yaml, identity.json, metrics.csv, mix.jsonl, mixture.json, eval.json, cost.json,
            checkpoints/ and model/.
        in_sweep: whether other runs will be compared with this one.
        overrides: configuration keys of the command, for the model card.

    Returns:
        What `eval.json` holds.

    Raises:
        MixalignError: for anything in the settings, the rows or the folder that cannot be used.
    """
    if settings.fast_dev_run:
        with trial(settings, in_sweep) as (short, folder):
            return _checked(short, folder, in_sweep, overrides, kept=False)
    return _checked(settings, run_dir, in_sweep, overrides)


def _checked(
    settings: RunSettings, run_dir: Path, in_sweep: bool, overrides: Sequence[str], kept: bool = True
) -> dict[str, Any]:
    check_together(settings)
    train_specialists = needs_specialists(settings, in_sweep)
    check_place("run_dir", run_dir)
    with held(run_dir):
        return _run(settings, run_dir, train_specialists, overrides, kept, alone=not in_sweep)


def _run(
    settings: RunSettings, run_dir: Path, train_specialists: bool, overrides: Sequence[str], kept: bool, alone: bool
) -> dict[str, Any]:
    job = prepare(settings, begun_tasks(run_dir, settings.resume))
    mixer = settings.mixer.for_run(job.tasks, job.steps)
    merges_of(settings, len(job.tasks))  # refuses what cannot be merged before anything is trained
    check_run(job, mixer, train_specialists)
    claimed = decide(partial(_claim, run_dir, job, mixer))
    begins = claimed.resume if claimed.resume == settings.resume else None  # from another run's checkpoint
    job = with_sizes_of(job, decide(partial(_saved, run_dir)))
    same = partial(_check_same, run_dir, begins)
    same(job)
    rows, name = sum(map(len, job.data["train"])), settings.name
    log.info("%s: %d tasks, %d rows, %d steps of %d rows", name, len(job.tasks), rows, job.steps, settings.batch_size)
    if chosen := chosen_of(job, train_specialists):
        log.info("chosen: %s", "; ".join(chosen))
    for note in notes_of(job, mixer, train_specialists):
        log.warning("%s", note)
    may_train = train_specialists or _has_begun_with_specialists(run_dir, settings)
    job, reference = reference_policy(job, partial(_begin, same, mixer, may_train, claimed.finished))
    asked = Generations.of(job, reference, job.final_split)
    if claimed.finished:
        log.info("%s is finished already", run_dir)
    else:
        if claimed.then:
            decide(partial(set_aside, run_dir, job, claimed.then))
        decide(partial(write_identity, run_dir, job, begins, overrides, reference.identity))
        decide(partial(write_config, run_dir, job))
        attach_reference(job, reference)
        has_specialists = _attach_specialists(job, reference, may_train, run_dir)
        if has_specialists:
            keep_specialists(run_dir, job, reference)
            warn_of_useless(job, reference)
        run = Generalist(
            job, mixer, reference, has_specialists, run_dir, settings.export, job.steps, resume=claimed.resume
        )
        run = replace(run, start=start_losses(job, reference, job.final_split))
        with stage("", again=_again(run_dir)):
            _train(run)
    with stage("", again=_again(run_dir)):
        result = with_generations(asked, reference, run_dir)
    job.course.finish()
    _leave_card(run_dir)
    _say(eval_table(result) + (remarks(result) + _where(run_dir, alone) if kept else ""))
    for merge in run_merges(job, reference, run_dir, train_specialists, kept):
        _leave_card(merge)
    return result


def _has_begun_with_specialists(run_dir: Path, settings: RunSettings) -> bool:
    """Whether a run that goes on may train specialists that it had and that are gone."""
    return begun_specialists(run_dir) is True and settings.specialists.train != "never"


def _attach_specialists(job: Job, reference: Frozen, may_train: bool, run_dir: Path) -> bool:
    """Gives rows their specialists' losses, in a run that goes on if and only if it began with them.

    Its best checkpoint is chosen by excess with them and by loss without, whatever is in the cache by then.

    Raises:
        MixalignError: when they are gone, and may not be trained.
    """
    begun = begun_specialists(run_dir)
    has = begun is not False and attach_specialists(job, reference, may_train)
    if begun and not has:
        raise MixalignError(
            f"The run in {run_dir} began with specialists and chooses its best checkpoint by their losses, but they "
            f"are not in {job.settings.specialists.dir or job.cache} any more, and `specialists.train` is never. "
            "Restore them, or give another `run_dir`."
        )
    decide(partial(write_specialists, run_dir, has))
    return has


def _claim(run_dir: Path, job: Job, mixer: Rule) -> Claim:
    claimed = claim(run_dir, job)
    check_extension(run_dir, job, mixer, claimed)
    if claimed.resume is not None and claimed.resume == job.settings.resume:
        check_checkpoint(job, claimed.resume)
    return claimed


def _saved(run_dir: Path) -> dict[str, Any]:
    """The configuration that the folder's run has; empty where there is none."""
    return read_plain(run_dir) if (run_dir / "config.yaml").is_file() else {}


def _check_same(run_dir: Path, begins: Path | None, job: Job) -> None:
    check_identity(run_dir, job)
    if begins is not None:
        check_resumed(begins, job)


def _begin(check: Callable[[Job], None], mixer: Rule, train_specialists: bool, finished: bool, job: Job) -> None:
    """Once the base model is known, and before anything is trained on it."""
    check(job)
    if not finished:
        begin_course(job, mixer, train_specialists)


def _train(run: Generalist) -> dict[str, Any]:
    """In rounds, by a proxy, or in one training, as the rule wants it."""
    if run.mixer.cadence == "round":
        return run_rounds(run, run.mixer)
    if run.mixer.final:
        return run_proxy(run)
    return train_generalist(replace(run, job=with_baseline(run.job, run.mixer, run.reference)))


@rank_zero_only
def _leave_card(run_dir: Path) -> None:
    leave_card(run_dir)


def _where(run_dir: Path, alone: bool) -> str:
    """Where a run lies, and what can be done with one that stands for itself."""
    then = "\nnext: `mixalign report`, `chat`, `evaluate` or `export` with that folder" if alone else ""
    return f"\nrun folder: {run_dir}{then}"


@rank_zero_only
def _say(text: str) -> None:
    say_result(text)

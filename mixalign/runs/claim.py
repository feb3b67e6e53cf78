"""What a command may do in a run folder: begin a run, go on with it, extend it, or nothing, because it is finished."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixalign.errors import MixalignError
from mixalign.fingerprint import differences
from mixalign.jobs.job import Job
from mixalign.mixers.base import Rule
from mixalign.runs.folder import read_settings, that_matter
from mixalign.runs.identity import begun_from
from mixalign.training.average_share import first_step, share_of
from mixalign.training.callbacks.probes import probes_for
from mixalign.training.checkpoints import (
    checkpoint_name,
    checkpoint_step,
    newest_checkpoint,
    who_stopped,
    why_unreadable,
)
from mixalign.training.optimizer import Optimizer

__all__ = ["EARLIER", "Claim", "check_extension", "claim", "set_aside", "still_there"]

log = logging.getLogger(__name__)

EARLIER = "earlier"  # sub-folder with the results of a run before it was extended, by their steps
OTHERS = "Choose another `run_dir`"


@dataclass(frozen=True)
class Claim:
    """A command's right to a run folder.

    Attributes:
        finished: whether all is done already.
        resume: the checkpoint to go on from; None begins.
        then: optimizer steps that the folder's run had before it was told to make more; None: it is not extended.
    """

    finished: bool = False
    resume: Path | None = None
    then: int | None = None


def claim(run_dir: Path, job: Job) -> Claim:
    """Makes sure that a folder holds no other run, and finds the checkpoint that its run goes on from.

    Raises:
        MixalignError: when the folder holds a run with other settings, naming them; one that was begun from something
            else than `resume`; or one of more steps.
    """
    asked = job.settings.resume
    if asked and (reason := why_unreadable(asked)):
        raise MixalignError(f"`resume={asked}` cannot be read: {reason}. Give a checkpoint that mixalign wrote.")
    own, first = newest_checkpoint(run_dir), begun_from(run_dir)
    if own is not None and first and checkpoint_step(own) <= first["step"]:
        own = None  # the best one of that other run, copied from there
    if not (run_dir / "config.yaml").is_file():
        if own is not None:
            raise MixalignError(
                f"{run_dir} has checkpoints, but no config.yaml that says of what. Restore it from a copy. {OTHERS}, "
                "or delete the folder."
            )
        return Claim(resume=asked)
    then = read_settings(run_dir).plain
    finished = (run_dir / "eval.json").is_file()
    resume = _own_or_first(run_dir, asked, own, first)
    if resume is None and not finished and first:
        raise MixalignError(
            f"The run in {run_dir} was begun from the checkpoint {first['path']} and has none of its own yet. Give it "
            f"again: `resume={first['path']}`."
        )
    extended = _extended(then, job)
    if wrong := _wrong(then, job, extended, finished):
        raise MixalignError(
            f"{run_dir} already holds a run with other settings ({'; '.join(wrong)}). {OTHERS}, or restore them to go "
            "on with that run."
        )
    if extended and extended > job.steps:
        raise MixalignError(
            f"{run_dir} holds a run of {extended} steps, and `steps` is {job.steps}: its schedule was made for all of "
            f"them. Set steps={extended} to go on with it, or more to extend it, or choose another `run_dir`."
            f"{still_there(run_dir)}"
        )
    return Claim(finished and not extended, resume, extended)


def check_extension(run_dir: Path, job: Job, mixer: Rule, claimed: Claim) -> None:
    """Refuses to extend a run that could not become what it would have been with so many steps from the start.

    Args:
        mixer: told the run's tasks and steps.

    Raises:
        MixalignError: when the run is of several trainings, ended by a callback, or planned by its number of steps.
    """
    if not (then := claimed.then):
        return
    what = f"The run in {run_dir} cannot be extended from {then} to {job.steps} steps"
    name = f"mixer={job.settings.mixer_name}"
    if mixer.cadence == "round" or mixer.final:
        kind = "rounds, each of which" if mixer.cadence == "round" else "a proxy, which"
        raise MixalignError(f"{what}: `{name}` has {kind} trained for {then}. {OTHERS}, and train anew.")
    if who := (claimed.resume and who_stopped(claimed.resume)):
        raise MixalignError(
            f"{what}: it was ended by {who}, and would be again. {OTHERS} with `resume={claimed.resume}`, without "
            "that callback."
        )
    if job.settings.mixer.for_run(job.tasks, then) != mixer:
        raise MixalignError(
            f"{what}: `{name}` plans by the number of steps (settings below 1 are shares of the run), and would have "
            f"begun otherwise. {OTHERS}, and train anew."
        )
    rate: Optimizer = job.settings.optimizer
    done = checkpoint_step(claimed.resume) if claimed.resume else 0
    share = share_of(job.settings.export, job.settings.average_last)
    if share and job.settings.export == "averaged" and done >= (first := first_step(share, job.steps)):
        raise MixalignError(
            f"{what}: the mean of its weights would begin at step {first}, and {done} are made, after which it cannot "
            f"be taken any more. Take more steps, a smaller `average_last` in another `run_dir`, or train anew there."
        )
    ended, anew = (rate.factor(steps)(done) for steps in (then, job.steps))
    if done >= then and ended < anew:
        raise MixalignError(
            f"{what}: its learning rate has come down to {rate.lr * ended:.2g} "
            f"(`optimizer.schedule={rate.schedule}`), and more steps would raise it again. {OTHERS}, and train anew, "
            f"or go on from these weights with a schedule of their own: `resume={claimed.resume}`."
        )


def set_aside(run_dir: Path, job: Job, then: int) -> None:
    """Moves the results of a run that is extended into a sub-folder, so that the folder is that of an unfinished run.

    It may be called again when it was interrupted: what is moved first is what says that a run is finished.

    Args:
        then: its steps before.
    """
    place = run_dir / EARLIER / str(then)
    results = [run_dir / "eval.json", *sorted(run_dir.glob("eval_*.json"))]
    results += [run_dir / name for name in ("mixture.json", "cost.json", "model")]
    there = place.is_dir() or results[0].is_file()  # else the run was not finished
    for path in filter(Path.exists, results if there else []):
        place.mkdir(parents=True, exist_ok=True)
        if (place / path.name).is_dir():
            shutil.rmtree(place / path.name)
        path.rename(place / path.name)
    if place.is_dir() and not (place / "config.yaml").exists():
        shutil.copy(run_dir / "config.yaml", place / "config.yaml")
    schedule = job.settings.optimizer.schedule
    log.info(
        "extended from %d to %d steps: the schedule of the learning rate (%s) is computed anew%s",
        then,
        job.steps,
        schedule,
        f"; the results at {then} steps are in {place}" if place.is_dir() else "",
    )


def still_there(run_dir: Path) -> str:
    """A sentence that names the results of an unfinished run from before it was extended; empty where it has none."""
    steps = [int(path.name) for path in (run_dir / EARLIER).glob("*") if path.name.isdecimal()]
    if not steps or (run_dir / "eval.json").is_file():
        return ""
    return f" The results at {max(steps)} steps are still there: {run_dir / EARLIER / str(max(steps))}."


def _own_or_first(run_dir: Path, asked: Path | None, own: Path | None, first: Mapping[str, Any]) -> Path | None:
    """The folder's own newest checkpoint, or before it has one, the one that it was begun from, which `first` names.

    Raises:
        MixalignError: when another one is asked for.
    """
    if asked is None:
        return own
    if asked.resolve().is_relative_to(run_dir.resolve()):
        if own is None or checkpoint_step(asked) == checkpoint_step(own):
            return own
        raise MixalignError(
            f"`resume={asked}` is of step {checkpoint_step(asked)}, and its run has gone on to step "
            f"{checkpoint_step(own)}. Leave `resume` out to go on from there, or go back in another `run_dir`."
        )
    if first.get("name") != checkpoint_name(asked):
        began = f"from {first['path']} as it was at step {first['step']}" if first else "without one"
        raise MixalignError(
            f"{run_dir} already holds a run that was not begun from `resume={asked}`, but {began}. {OTHERS}, or leave "
            "`resume` out to go on with that run."
        )
    return own or asked


def _extended(then: Mapping[str, Any], job: Job) -> int | None:
    """The steps of the folder's run, where they are others than now."""
    steps = then.get("steps")
    return steps if isinstance(steps, int) and steps != job.steps else None


def _wrong(then: Mapping[str, Any], job: Job, extended: int | None, finished: bool) -> list[str]:
    """What differs between the folder's settings and the job's."""
    before, wanted = that_matter(then), that_matter(job.plain)
    if wanted.get("trainer.precision") == "auto":  # it depends on the model, which is not there yet
        wanted["trainer.precision"] = before.get("trainer.precision")
    left_out = {"steps", "epochs"} if extended else set()
    if not finished and wanted["export"] == "last":
        left_out |= {"export", "average_last"}  # for a run whose best checkpoint was lost
    if extended and job.settings.val_every is None:
        left_out.add("val_every")  # a share of the steps
    unread = _unread(job)
    for key in (*before, *wanted):
        if key in left_out or key.startswith(unread):
            before.pop(key, None)
            wanted.pop(key, None)
    return differences(before, wanted)


def _unread(job: Job) -> tuple[str, ...]:
    """How the keys begin that the job reads nowhere, so that it is the same run whatever their values are."""
    unread = []
    if job.settings.mixer.cadence != "round":
        unread.append("influence.")
    if not probes_for(job.settings.mixer):
        unread.append("probe.")
    if not job.objective.uses_reference:
        unread.append("reference.")
    elif job.settings.reference.sft_steps == 0:
        unread += ["reference.sft_lr", "reference.sft_epochs", "reference.sft_batch_size", "reference.seed"]
    return tuple(unread)

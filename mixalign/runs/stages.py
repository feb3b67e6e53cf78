"""The stages of a whole run: what is still to be trained and read, and how much work that is."""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any

from mixalign.course import READING, TRAINING, Stage
from mixalign.data.dataset import TaskDataset
from mixalign.frozen.baseline import find_baseline
from mixalign.frozen.cache import CachedModel, Frozen, score_path, score_recipe
from mixalign.frozen.costs import speeds
from mixalign.frozen.folds import outside, stage_name
from mixalign.frozen.policy import OF_REFERENCE, find_reference, reference_steps
from mixalign.frozen.recipes import training_work
from mixalign.frozen.specialists import find_folds, specialist_steps
from mixalign.frozen.worse import OF_START
from mixalign.jobs.job import Job
from mixalign.jobs.validations import read_in_training
from mixalign.mixers.base import PROBED, Rule

__all__ = ["EVALUATION", "GENERALIST", "begin_course", "kind_of", "stages_of"]

GENERALIST, EVALUATION = "generalist", "evaluation"


def begin_course(job: Job, mixer: Rule, train_specialists: bool) -> None:
    """Tells the job's course what the run has still to do.

    Args:
        job: fitted to the base model.
        train_specialists: whether missing ones are to be trained.
    """
    known = {kind: speed for kind, (speed, _) in speeds(job).items()}
    job.course.begin(stages_of(job, mixer, train_specialists, look=True), known, says=job.settings.progress)


def kind_of(mixer: Rule) -> str:
    """The kind of work that training by a rule is: probes between the steps take time of their own."""
    return "training with probes" if mixer.needs & PROBED else TRAINING


def stages_of(job: Job, mixer: Rule, train_specialists: bool, look: bool = False) -> list[Stage]:
    """The stages of a run, in their order.

    Args:
        mixer: told the run's tasks and steps.
        look: whether what the cache has is left out, of a job that is fitted to its base model; else all count.
    """
    model = find_reference(job) if look else None
    reference = Frozen(model.identity if model else job.start, job.settings.model.build) if look else None
    return [
        *_of_reference(job, model, reference),
        *(_of_specialists(job, reference) if train_specialists else ()),
        *_of_start(job),
        *_of_generalist(job, mixer, reference),
    ]


def _of_reference(job: Job, model: CachedModel | None, reference: Frozen | None) -> Iterator[Stage]:
    steps, settings = reference_steps(job), job.settings.reference
    if steps and not (model and model.is_made):
        tables = [table.first_completion() for table in job.data["train"]]
        yield Stage("reference", training_work(tables, steps, settings.sft_batch_size), trainings=1)
    if job.settings.eval.generate:
        yield Stage("answers of the start", {"answers": 1.0})
    if not job.objective.uses_reference:
        return
    tables = [table for _, _, table in job.all_datasets]
    tables += [table for table in job.targets if table not in job.data["validation"]]
    if units := _to_read(job, reference, tables):
        yield Stage(OF_REFERENCE, {READING: units})


def _of_specialists(job: Job, reference: Frozen | None) -> Iterator[Stage]:
    settings = job.settings.specialists
    found = find_folds(job, reference) if reference else {}
    for number, task in enumerate(job.tasks):
        train = job.data["train"][number]
        tables = [table for k, _, table in job.all_datasets if k == number]
        for fold in range(settings.folds):
            model = found[task][fold] if reference else None
            if model and model.is_made:
                continue
            rows = outside(train, settings.folds, fold) if settings.folds > 1 else train
            work = training_work([rows], specialist_steps(job, number, len(rows)), settings.batch_size)
            yield Stage(stage_name(task, fold, settings.folds), work | {READING: _tokens(tables)}, trainings=1)


def _of_start(job: Job) -> Iterator[Stage]:
    if not job.settings.eval.start or job.objective.uses_reference:
        return
    yield Stage(OF_START, {READING: _tokens(job.data[job.final_split])})


def _of_generalist(job: Job, mixer: Rule, reference: Frozen | None) -> Iterator[Stage]:
    if mixer.cadence == "round":
        yield from _of_rounds(job, mixer)
        return
    if mixer.excess_over == "baseline" and not (reference and find_baseline(job, reference, mixer).is_made):
        yield Stage("baseline", _training(job, mixer) | {READING: _tokens(job.data["train"])}, trainings=1)
    training, at_end = _training(job, mixer), _tokens(job.data[job.final_split])
    if mixer.final:
        yield Stage("proxy", training | {READING: training[READING] + at_end}, trainings=1)
    yield Stage(GENERALIST, training, trainings=1)
    yield Stage(EVALUATION, {READING: at_end})
    if job.settings.eval.generate:
        yield Stage("answers of the result", {"answers": 1.0})


def _of_rounds(job: Job, mixer: Any) -> Iterator[Stage]:
    """As many as there are at most, each of as many steps as the first."""
    read = _tokens(job.data[job.final_split]) + _tokens(job.targets)
    for number in range(mixer.rounds + 1):
        training = _training(job, mixer)
        yield Stage(f"round {number}", training | {READING: training[READING] + read}, trainings=1)
        if number < mixer.rounds:
            yield Stage(f"influence {number}", {"influence": 1.0})
    if job.settings.eval.generate:
        yield Stage("answers of the result", {"answers": 1.0})


def _training(job: Job, mixer: Rule) -> dict[str, float]:
    """One training of a generalist, with its validations."""
    (units,) = training_work(job.data["train"], job.steps, job.settings.batch_size).values()
    looks = ceil(job.steps / job.val_every)  # the last step is always validated
    read = read_in_training(job.data["validation"], job.settings.eval_rows, job.settings.data.seed)
    return {kind_of(mixer): units, READING: looks * _tokens(read)}


def _tokens(tables: Sequence[TaskDataset]) -> float:
    return sum(float(table.length_N.sum()) for table in tables)


def _to_read(job: Job, model: Frozen | None, tables: Sequence[TaskDataset]) -> float:
    """Tokens of the tables whose scores under a model the cache lacks."""
    lacking = [t for t in tables if model is None or not score_path(job, score_recipe(job, model, t)).is_file()]
    return _tokens(lacking)

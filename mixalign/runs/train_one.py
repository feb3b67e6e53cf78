"""One training of a generalist in a folder of its own: train, take the weights to keep, evaluate, save."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler

from mixalign.config.build import build
from mixalign.data.batches.module import MixtureData
from mixalign.data.batches.sampler import MixtureSampler
from mixalign.files import write_json
from mixalign.frozen.batch_sizes import micro_batch_size
from mixalign.frozen.behind import cost_behind
from mixalign.frozen.cache import Frozen
from mixalign.jobs.job import Job
from mixalign.jobs.validations import read_in_training
from mixalign.mixers.base import Rule
from mixalign.models.load import add_lora
from mixalign.runs.evaluate import align_module, evaluate, prepare_generalist
from mixalign.runs.exported import put_exported
from mixalign.runs.portable import export_base
from mixalign.runs.stages import EVALUATION, GENERALIST, kind_of
from mixalign.runs.start import with_start
from mixalign.runs.summary import write_results
from mixalign.runs.trackers import close_trackers, open_trackers, send_results, send_start
from mixalign.runs.yardstick import excess_over
from mixalign.stopping import stage
from mixalign.together.trainer import trainer_options
from mixalign.training.average_share import CHOSEN, share_of
from mixalign.training.callbacks.average import AverageWeights
from mixalign.training.callbacks.best_checkpoint import MONITORS, BestCheckpoint
from mixalign.training.callbacks.cost import Cost
from mixalign.training.callbacks.leave import Leave
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.callbacks.mixture_picture import MixturePicture
from mixalign.training.callbacks.probes import probes_for
from mixalign.training.callbacks.progress import MixtureProgress
from mixalign.training.callbacks.save_newest import SaveNewest
from mixalign.training.callbacks.specialist_check import SpecialistCheck
from mixalign.training.callbacks.task_log import TaskLog
from mixalign.training.callbacks.wandb_board import WandbBoard
from mixalign.training.callbacks.watched import Watched
from mixalign.training.fit import Fit, fit, make_trainer
from mixalign.training.lightning_quirks import ended_early
from mixalign.training.memory import too_large
from mixalign.training.module import AlignModule
from mixalign.training.sharding import save_model

__all__ = ["Generalist", "train_generalist"]

log = logging.getLogger(__name__)
PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


@dataclass(frozen=True)
class Generalist:
    """What one training of a generalist is to do.

    Attributes:
        job: its tasks, with the scores of frozen models as columns.
        mixer: the rule, told the run's tasks and steps.
        reference: the model that it starts from.
        has_specialists: whether the rows carry specialists' losses.
        folder: gets metrics.csv, mix.jsonl, mixture.json, eval.json, cost.json, checkpoints/ and model/.
        export: weights that are evaluated and saved: `best`, `best_gap`, `last` or `averaged`.
        steps: optimizer steps.
        volume_K: rows of each task in one epoch, for trainings on other volumes than the tasks have.
        resume: a Lightning checkpoint to go on from.
        results: further entries of `eval.json`.
        start: loss of the start model on the rows of the results, by task; see `start_losses`.
        stage: of the run that it is part of.
    """

    job: Job
    mixer: Rule
    reference: Frozen
    has_specialists: bool
    folder: Path
    export: str
    steps: int
    volume_K: list[int] | None = None
    resume: Path | None = None
    results: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, float] = field(default_factory=dict)
    stage: str = GENERALIST


def train_generalist(run: Generalist) -> dict[str, Any]:
    """Trains from the reference policy and fills the folder.

    Returns:
        What `eval.json` holds.

    Raises:
        MixalignError: when memory runs out, or a checkpoint does not fit.
    """
    job, settings = run.job, run.job.settings
    job.course.enter(run.stage)
    model = add_lora(run.reference.build(), settings.lora, settings.seed)
    L.seed_everything(settings.seed, verbose=False)
    module, data = align_module(job, run.mixer, model), _data(run)
    mixing = Mixing(run.mixer, job.tasks, data.sampler.volume_K.tolist(), run.folder / "mix.jsonl", settings.on_nan)
    trackers = open_trackers(settings, run.folder, run.resume)
    try:
        if done := prepare_generalist(job, model, run.steps):
            log.info("engine: %s", ", ".join(done))
        trainer = _trainer(run, mixing, [*trackers.values()])
        send_start(trackers, job, run.reference if run.has_specialists else None, run.folder, run.resume)
        try:
            with stage("the training"):
                fit(trainer, module, data, run.resume)
        except RuntimeError as error:
            raise too_large(error, trainer, data) or error from None
        exported = put_exported(run.export, trainer, module, data)
        run = replace(run, results={"exported": exported, **ended_early(trainer), **run.results})
        _write_cost(trainer, run)
        result = _finish(run, trainer, module, data, mixing)
        send_results(trackers, job.plain, result)
        return result
    finally:
        close_trackers(trackers)


def _data(run: Generalist) -> MixtureData:
    job, settings = run.job, run.job.settings
    composition = settings.composition or run.mixer.composition
    rows_K = [len(table) for table in job.data["train"]]
    sampler = MixtureSampler(rows_K, settings.batch_size, composition, settings.seed, run.volume_K)
    validation = read_in_training(job.data["validation"], settings.eval_rows, settings.data.seed)
    return MixtureData(job.data["train"], validation, sampler, run.steps, job.eval_batch_size, job.layout)


def _trainer(run: Generalist, mixing: Mixing, loggers: list[Logger]) -> L.Trainer:
    job, settings = run.job, run.job.settings
    options = trainer_options(settings, job.precision) | {"enable_progress_bar": settings.progress}
    if settings.trainer.profiler:
        options["profiler"] = PROFILERS[settings.trainer.profiler](dirpath=run.folder, filename="profile")
    how = Fit(run.steps, settings.batch_size, micro_batch_size(job, settings.batch_size), job.val_every, options)
    return make_trainer(how, run.folder, _callbacks(run, mixing), loggers)


def _callbacks(run: Generalist, mixing: Mixing) -> list[Callback]:
    """In order: probes hand what they measure to Mixing, and what saves comes behind what decides."""
    settings, checkpoints = run.job.settings, run.folder / "checkpoints"
    probe, own = settings.probe, run.export == settings.export  # a round or a proxy may keep others than the run
    share = share_of(run.export, settings.average_last if own else None)
    callbacks: list[Callback] = [
        *probes_for(run.mixer, settings.seed, probe.rows, probe.validation_rows, probe.weights),
        mixing,
        SpecialistCheck(judges=run.mixer.excess_over == "specialists"),
        TaskLog(mixing, settings.log_every),
        WandbBoard(mixing),
        MixturePicture(mixing),
        *(build(node) for node in settings.callbacks.values()),
        *([AverageWeights(share)] if share else []),
        _keeper(run, checkpoints),
        SaveNewest(checkpoints, settings.save_every),
        Watched(),
        Leave(checkpoints),
        Cost(),
    ]
    if settings.progress:
        callbacks.append(MixtureProgress(mixing, run.stage, run.job.course, kind_of(run.mixer)))
    return callbacks


def _keeper(run: Generalist, checkpoints: Path) -> BestCheckpoint:
    monitor = MONITORS[run.export] if run.has_specialists else "eval/worst_loss"
    return BestCheckpoint(checkpoints, monitor, wanted=run.export in CHOSEN, resumed=run.resume and run.resume.parent)


def _write_cost(trainer: Any, run: Generalist) -> None:
    """Before eval.json, which says that the training is finished."""
    (meter,) = [callback.meter for callback in trainer.callbacks if isinstance(callback, Cost)]
    spent = {"steps": trainer.global_step, "processes": trainer.world_size} | meter.state_dict()
    behind = cost_behind(run.job, run.reference, run.mixer)
    if trainer.is_global_zero:
        write_json(run.folder / "cost.json", spent | {"leans_on": behind})


def _finish(
    run: Generalist, trainer: L.Trainer, module: AlignModule, data: MixtureData, mixing: Mixing
) -> dict[str, Any]:
    """Evaluates the weights, and writes the results and the model."""
    if run.stage == GENERALIST:
        run.job.course.enter(EVALUATION)
    with stage("the evaluation and export", f"the training is kept in {run.folder / 'checkpoints'}"):
        result = with_start(evaluate(run.job, trainer, module, run.job.final_split), run.start)
        result |= excess_over(run.job, run.reference)
        result |= {"steps": trainer.global_step, **run.results}
        save_model(module.model, run.job.tokenizer, run.folder / "model", trainer.is_global_zero)
    if trainer.is_global_zero:
        export_base(run.folder, run.job.cache, job=run.job)
        write_json(run.folder / "mixture.json", mixing.summary(data.sampler))
        write_results(run.folder / "eval.json", result)
    return result

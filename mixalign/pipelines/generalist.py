"""One training of a generalist in a folder of its own: train, take the weights to keep, evaluate, save."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, WandbLogger
from torch import nn

from mixalign.data.module import MixtureData
from mixalign.data.sampler import MixtureSampler
from mixalign.errors import MixalignError
from mixalign.evaluation.summary import eval_json
from mixalign.files import write_json
from mixalign.mixers.base import Mixer
from mixalign.models.load import add_lora
from mixalign.models.reference import LIVE
from mixalign.pipelines.build import build, plain
from mixalign.pipelines.job import Job
from mixalign.pipelines.ranks import trainer_options
from mixalign.pipelines.stages import Frozen, excess_over, leans_on, mean_length, micro_batch_size
from mixalign.training.callbacks.cost import Cost
from mixalign.training.callbacks.leave import Leave
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.callbacks.probes import probes_for
from mixalign.training.callbacks.progress import MixtureProgress
from mixalign.training.callbacks.save_newest import SaveNewest
from mixalign.training.callbacks.specialist_check import SpecialistCheck
from mixalign.training.callbacks.task_log import TaskLog
from mixalign.training.callbacks.wandb_board import WandbBoard
from mixalign.training.engine import prepare_model
from mixalign.training.fit import Fit, fit, make_trainer
from mixalign.training.module import AlignModule
from mixalign.training.sharding import load_weights, save_model

__all__ = ["check_batch", "train_generalist"]

log = logging.getLogger(__name__)


def train_generalist(
    job: Job,
    mixer: Mixer,
    reference: Frozen,
    judged: bool,
    folder: Path,
    *,
    export: str,
    steps: int | None = None,
    volume_K: list[int] | None = None,
    resume: Path | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains from the reference policy and fills the folder.

    Args:
        judged: whether the rows carry specialists' losses.
        folder: gets metrics.csv, mix.jsonl, mixture.json, eval.json, cost.json, checkpoints/ and model/.
        export: weights that are evaluated and saved: `best` or `last`.
        steps: optimizer steps; None: those of the configuration.
        volume_K: rows of each task in one epoch, for trainings on other volumes than the tasks have.
        resume: a Lightning checkpoint to go on from.
        more: further entries of `eval.json`.

    Returns:
        What `eval.json` holds.
    """
    cfg, train = job.cfg, job.data["train"]
    steps, rows_K = steps or cfg.steps, [len(d) for d in train]
    model = add_lora(reference.build(), build(cfg.lora), cfg.seed)
    L.seed_everything(cfg.seed, verbose=False)
    module = _module(job, mixer, model)
    composition = cfg.composition or mixer.composition
    sampler = MixtureSampler(rows_K, cfg.batch_size, composition, cfg.seed, volume_K)
    data = MixtureData(train, job.data["validation"], sampler, steps, cfg.eval_batch_size, job.layout)
    mixing = Mixing(mixer, job.tasks, volume_K or rows_K, folder / "mix.jsonl", cfg.on_nan)
    loggers = [build(node, save_dir=str(folder)) for node in (cfg.logger or {}).values()]
    try:
        if done := prepare_model(model, job.engine, steps * cfg.batch_size * mean_length(train)):
            log.info("engine: %s", ", ".join(done))
        trainer = _trainer(job, mixer, steps, mixing, judged, folder, loggers)
        try:
            fit(trainer, module, data, resume)
        except RuntimeError as error:
            raise _too_large(error, trainer, data) or error from None
        if export == "best":
            _take_best(trainer, module)
        _write_cost(trainer, folder, leans_on(job, reference, mixer))
        return _finish(job, trainer, module, data, mixing, folder, more or {})
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()  # else the next run of a sweep writes into this one


def _module(job: Job, mixer: Mixer, model: nn.Module) -> AlignModule:
    mode = job.cfg.reference.mode
    live = None
    if job.objective.uses_reference and mode != "cached":
        live = LIVE[mode](model)
        for _, _, dataset in job.all_datasets:
            dataset.columns.pop("reference_logp", None)
    return AlignModule(
        model,
        job.objective,
        job.tasks,
        build(job.cfg.optimizer),
        descends_on=mixer.descends_on,
        clip=mixer.clip,
        live_reference=live,
    )


def _too_large(error: RuntimeError, trainer: L.Trainer, data: MixtureData) -> MixalignError | None:
    """What to lower when memory ran out; None for another error. Torch has one type for GPUs, and words for a CPU."""
    if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
        return None
    rows = data.sampler.batch_size // (trainer.world_size * trainer.accumulate_grad_batches)
    longest = max(int(d.length_N.max()) for d in data.train)
    return MixalignError(
        f"Memory ran out with {rows} rows in a forward pass, the longest of {longest} tokens. Lower `micro_batch_size` "
        "or set `engine.max_tokens` (the training stays the same), set `engine.gradient_checkpointing=true`, lower "
        "`data.max_length`, or train an adapter: `lora=default`."
    )


def check_batch(job: Job, mixer: Mixer) -> None:
    """Refuses a batch that is too small for a mixer which wants every task in it.

    Raises:
        MixalignError: naming both numbers.
    """
    cfg, num_tasks = job.cfg, len(job.tasks)
    stratified = (cfg.composition or mixer.composition) == "stratified"
    if mixer.needs and stratified and cfg.batch_size < num_tasks:
        raise MixalignError(
            f"`mixer={cfg.mixer.name}` wants every task in every batch, but `batch_size` is {cfg.batch_size} and "
            f"there are {num_tasks} tasks. Raise batch_size (micro_batch_size saves memory), or take mixer=ama_s."
        )


def _trainer(
    job: Job, mixer: Mixer, steps: int, mixing: Mixing, judged: bool, folder: Path, loggers: list[Logger]
) -> L.Trainer:
    cfg = job.cfg
    watched = "eval/worst_excess" if judged else "eval/worst_loss"
    # after each validation; by default Lightning saves only once, at the end, when every batch is validated
    own: dict[str, Any] = {
        "save_on_train_epoch_end": False,
        "auto_insert_metric_name": False,
        "enable_version_counter": False,
    }
    keeper = ModelCheckpoint(folder / "checkpoints", "step{step}", monitor=watched, **own)
    newest = SaveNewest(folder / "checkpoints", cfg.save_every)
    probes = probes_for(mixer, cfg.seed, **plain(cfg.probe))
    check = SpecialistCheck(judges=excess_over(mixer) == "specialists")
    callbacks = [*probes, mixing, check, TaskLog(mixing, cfg.log_every), WandbBoard(mixing), keeper, newest]
    callbacks += [Leave(folder / "checkpoints"), Cost()]
    if cfg.progress:
        callbacks.append(MixtureProgress(mixing, cfg.name))
    options = trainer_options(cfg) | {"enable_progress_bar": bool(cfg.progress)}
    how = Fit(steps, cfg.batch_size, micro_batch_size(job, cfg.batch_size), cfg.val_every, options)
    return make_trainer(how, folder, callbacks, loggers)


def _write_cost(trainer: Any, folder: Path, leans_on: Mapping[str, Any]) -> None:
    """Before eval.json, which says that the training is finished."""
    (meter,) = [callback.meter for callback in trainer.callbacks if isinstance(callback, Cost)]
    spent = {"steps": trainer.global_step, "processes": trainer.world_size} | meter.state_dict()
    if trainer.is_global_zero:
        write_json(folder / "cost.json", spent | {"leans_on": leans_on})


def _take_best(trainer: L.Trainer, module: AlignModule) -> None:
    keeper = trainer.checkpoint_callback
    assert isinstance(keeper, ModelCheckpoint)
    if keeper.best_model_path:
        load_weights(module, Path(keeper.best_model_path))


def _finish(
    job: Job,
    trainer: L.Trainer,
    module: AlignModule,
    data: MixtureData,
    mixing: Mixing,
    folder: Path,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Evaluates the weights, and writes the results and the model."""
    split = "test" if "test" in job.data else "validation"
    trainer.validate(module, data.eval_loader(job.data[split]), verbose=False)
    result = eval_json(job.cfg.mixer.name, job.objective.name, job.cfg.seed, split, job.tasks, module.evaluation)
    result |= more
    save_model(module.model, job.tokenizer, folder / "model", trainer.is_global_zero)
    if trainer.is_global_zero:
        write_json(folder / "mixture.json", mixing.summary(data.sampler))
        write_json(folder / "eval.json", result)
    return result

"""`mixalign train`: from a configuration to a generalist, its mixture and its report."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from mixalign.data.module import MixtureData
from mixalign.data.sampler import MixtureSampler
from mixalign.errors import MixalignError
from mixalign.evaluation.summary import eval_json, eval_table
from mixalign.mixers.base import Mixer
from mixalign.models.load import add_lora
from mixalign.models.reference import LIVE
from mixalign.pipelines.build import build, plain
from mixalign.pipelines.files import write_json
from mixalign.pipelines.job import Job, prepare
from mixalign.pipelines.stages import (
    attach_reference,
    attach_specialists,
    mean_length,
    micro_batch_size,
    reference_policy,
)
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.callbacks.progress import MixtureProgress
from mixalign.training.callbacks.specialist_check import SpecialistCheck
from mixalign.training.callbacks.task_log import TaskLog
from mixalign.training.callbacks.wandb_board import WandbBoard
from mixalign.training.engine import prepare_model
from mixalign.training.fit import Fit, fit, make_trainer
from mixalign.training.module import AlignModule

__all__ = ["needs_specialists", "run"]

log = logging.getLogger(__name__)


def run(cfg: DictConfig, run_dir: Path, in_sweep: bool = False) -> dict[str, Any]:
    """Trains a generalist and fills its run folder.

    Args:
        run_dir: gets config.yaml, metrics.csv, mix.jsonl, mixture.json, eval.json, checkpoints/ and model/.
        in_sweep: whether other runs will be compared with this one.

    Returns:
        What `eval.json` holds.

    Raises:
        MixalignError: for anything in the configuration, the rows or the folder that cannot be used.
    """
    _check(cfg)
    _claim(cfg, run_dir)
    mixer = build(cfg.mixer, "name")
    train_specialists = needs_specialists(cfg, mixer, in_sweep)
    job = prepare(cfg)
    sampler = _sampler(job, mixer)
    rows = sum(map(len, job.data["train"]))
    log.info("%s: %d tasks, %d rows, %d steps of %d rows", cfg.name, len(job.tasks), rows, cfg.steps, cfg.batch_size)
    reference = reference_policy(job)
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    attach_reference(job, reference)
    judged = attach_specialists(job, reference, train_specialists)
    model = add_lora(reference.build(), build(cfg.lora), cfg.seed)
    L.seed_everything(cfg.seed, verbose=False)
    module = _module(job, mixer, model)
    data = MixtureData(job.data["train"], job.data["validation"], sampler, cfg.steps, cfg.eval_batch_size, job.layout)
    mixing = Mixing(mixer, job.tasks, [len(d) for d in data.train], run_dir / "mix.jsonl")
    loggers = _loggers(cfg, run_dir)
    try:
        if done := prepare_model(model, job.engine, cfg.steps * cfg.batch_size * mean_length(data.train)):
            log.info("engine: %s", ", ".join(done))
        trainer = _trainer(job, mixing, judged, run_dir, loggers)
        fit(trainer, module, data, Path(cfg.resume) if cfg.resume else None)
        return _finish(job, trainer, module, data, mixing, run_dir)
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()  # else the next run of a sweep writes into this one


def needs_specialists(cfg: DictConfig, mixer: Mixer, in_sweep: bool) -> bool:
    """Whether missing specialists are to be trained."""
    policy = cfg.specialists.train
    if policy not in ("auto", "always", "never"):
        raise MixalignError(f"`specialists.train` is {policy!r}. Known: auto, always, never.")
    needed = mixer.descends_on == "excess" or any("excess" in name for name in mixer.needs)
    if needed and policy == "never" and not cfg.specialists.dir:
        raise MixalignError(
            f"`mixer={cfg.mixer.name}` needs specialists, but `specialists.train=never`. Set it to auto, or point "
            "`specialists.dir` at trained ones."
        )
    return policy == "always" or (policy == "auto" and (needed or in_sweep))


def _check(cfg: DictConfig) -> None:
    """Refuses words that nobody knows before anything is trained."""
    if cfg.export not in ("best", "last"):
        raise MixalignError(f"`export` is {cfg.export!r}. Known: best, last.")
    if cfg.reference.mode not in ("cached", *LIVE):
        raise MixalignError(f"`reference.mode` is {cfg.reference.mode!r}. Known: cached, {', '.join(LIVE)}.")
    if not isinstance(cfg.seed, int) or not 0 <= cfg.seed < 2**32:
        raise MixalignError(f"`seed` is {cfg.seed!r}, but must be a whole number from 0 to 2**32 - 1.")


def _claim(cfg: DictConfig, run_dir: Path) -> None:
    """Makes the run's folder; refuses one that holds another run."""
    if (run_dir / "mix.jsonl").exists() and not cfg.resume:
        raise MixalignError(
            f"{run_dir} already holds a run. Choose another `run_dir`, or go on with it: "
            f"`resume={run_dir}/checkpoints/last.ckpt`."
        )
    if cfg.resume and not Path(cfg.resume).is_file():
        raise MixalignError(f"`resume={cfg.resume}` is no file. Checkpoints lie in <run_dir>/checkpoints.")
    run_dir.mkdir(parents=True, exist_ok=True)


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


def _sampler(job: Job, mixer: Mixer) -> MixtureSampler:
    cfg, train = job.cfg, job.data["train"]
    composition = cfg.composition or mixer.composition
    if mixer.needs and composition == "stratified" and cfg.batch_size < len(train):
        raise MixalignError(
            f"`mixer={cfg.mixer.name}` wants every task in every batch, but `batch_size` is {cfg.batch_size} and "
            f"there are {len(train)} tasks. Raise batch_size (micro_batch_size saves memory), or take mixer=ama_s."
        )
    return MixtureSampler([len(d) for d in train], cfg.batch_size, composition, cfg.seed)


def _loggers(cfg: DictConfig, run_dir: Path) -> list[Logger]:
    return [build(node, save_dir=str(run_dir)) for node in (cfg.logger or {}).values()]


def _trainer(job: Job, mixing: Mixing, judged: bool, run_dir: Path, loggers: list[Logger]) -> L.Trainer:
    cfg = job.cfg
    watched = "eval/worst_excess" if judged else "eval/worst_loss"
    # after each validation; by default Lightning saves only once, at the end, when every batch is validated
    kept = partial(ModelCheckpoint, run_dir / "checkpoints", save_on_train_epoch_end=False)
    keeper = kept("step{step}", monitor=watched, auto_insert_metric_name=False)
    newest = kept("last", enable_version_counter=False)  # `save_last` would save the best one under that name
    callbacks = [mixing, SpecialistCheck(), TaskLog(mixing, cfg.log_every), WandbBoard(mixing), keeper, newest]
    if cfg.progress:
        callbacks.append(MixtureProgress(mixing, cfg.name))
    options = plain(cfg.trainer) | {"enable_progress_bar": bool(cfg.progress)}
    how = Fit(cfg.steps, cfg.batch_size, micro_batch_size(job, cfg.batch_size), cfg.val_every, options)
    return make_trainer(how, run_dir, callbacks, loggers)


def _finish(
    job: Job, trainer: L.Trainer, module: AlignModule, data: MixtureData, mixing: Mixing, run_dir: Path
) -> dict[str, Any]:
    """Takes the weights to keep, evaluates them, and writes the results and the model."""
    keeper = trainer.checkpoint_callback
    assert isinstance(keeper, ModelCheckpoint)
    if job.cfg.export == "best" and keeper.best_model_path:
        weights = torch.load(keeper.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
        module.load_state_dict(weights, strict=False)
    split = "test" if "test" in job.data else "validation"
    trainer.validate(module, data.eval_loader(job.data[split]), verbose=False)
    result = eval_json(job.cfg.mixer.name, job.objective.name, job.cfg.seed, split, job.tasks, module.evaluation)
    if trainer.is_global_zero:
        write_json(run_dir / "mixture.json", mixing.summary(data.sampler))
        save_model(module.model, job.tokenizer, run_dir / "model")
        write_json(run_dir / "eval.json", result)
        print(eval_table(result))
        print(f"run folder: {run_dir}")
    return result


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a folder that AutoModelForCausalLM (or AutoPeftModelForCausalLM) and AutoTokenizer load."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

"""What a run asks of its tasks, its mixer and its folders, refused before anything is trained."""

from pathlib import Path
from typing import Any

import torch

from mixalign.errors import MixalignError
from mixalign.fingerprint import differences
from mixalign.influence.settings import Influence
from mixalign.mixers.base import Mixer
from mixalign.pipelines.build import build, plain
from mixalign.pipelines.job import Job
from mixalign.pipelines.ranks import decide, trainer_options
from mixalign.pipelines.rounds import in_rounds
from mixalign.pipelines.run_config import read_config
from mixalign.pipelines.stages import (
    excess_over,
    micro_batch_size,
    reads_excess,
    reference_steps,
    refuse_foreign,
    specialist_steps,
)
from mixalign.training.callbacks.wandb_board import log_in
from mixalign.training.checkpoints import why_unreadable
from mixalign.training.fit import Fit, make_trainer

__all__ = ["check_run"]


def check_run(job: Job, mixer: Mixer, train_specialists: bool) -> None:
    """Refuses a run that could not go to its end.

    Args:
        mixer: told the run's tasks and steps.
        train_specialists: whether missing ones are to be trained.

    Raises:
        MixalignError: naming the setting.
    """
    mixer.init(torch.tensor([len(d) for d in job.data["train"]], dtype=torch.float64))
    _check_trainer(job)
    reference_steps(job)
    for number in range(len(job.tasks)) if train_specialists else ():
        specialist_steps(job, number)
    if job.objective.uses_reference and job.cfg.reference.mode == "adapter_off" and not plain(job.cfg.lora):
        raise MixalignError("`reference.mode=adapter_off` needs adapters: set `lora=default`, or use mode cached.")
    if in_rounds(mixer):
        _check_curvature(job)
    if job.cfg.specialists.dir:
        _check_specialists(job, mixer)
    if job.cfg.resume:
        _check_checkpoint(job, Path(job.cfg.resume))
    for logger in (job.cfg.logger or {}).values():
        if str(logger.get("_target_")).endswith("WandbLogger") and not logger.get("offline"):
            decide(log_in)


def _check_trainer(job: Job) -> None:
    """Makes the trainer that the run will have, for Lightning to refuse what it does not take."""
    cfg, options = job.cfg, trainer_options(job.cfg)
    if options.get("precision") == "auto":  # it depends on the model, which is not there yet
        options["precision"] = "32-true"
    rows = micro_batch_size(job, cfg.batch_size)
    make_trainer(Fit(cfg.steps, cfg.batch_size, rows, cfg.val_every, options), job.cache)


def _check_curvature(job: Job) -> None:
    influence: Influence = build(job.cfg.influence)
    check: Any = getattr(job.reference_objective, "check_curved", None)
    if check and influence.curvature != "identity" and influence.fisher == "true":
        check()


def _check_specialists(job: Job, mixer: Mixer) -> None:
    settings = job.cfg.specialists
    needed = reads_excess(mixer) and excess_over(mixer) == "specialists"
    for task in job.tasks:
        place = Path(settings.dir) / task
        refuse_foreign(place)
        if needed and settings.train == "never" and not place.exists():
            raise MixalignError(
                f"`mixer={job.cfg.mixer.name}` needs specialists, but there is no {place}, and `specialists.train` is "
                "never. Set it to auto, or `specialists.dir` to a folder with one for each task."
            )


def _check_checkpoint(job: Job, path: Path) -> None:
    """Compares a checkpoint with this run, by the configuration of the run that it lies in, and by its tasks."""
    if reason := why_unreadable(path):
        raise MixalignError(f"`resume={path}` cannot be read: {reason}. Give a checkpoint that mixalign wrote.")
    folder = path.resolve().parent.parent
    if (folder / "config.yaml").is_file():
        found, wanted = _what_it_trains(read_config(folder)), _what_it_trains(job.cfg)
        if wrong := differences(found, wanted):
            raise MixalignError(
                f"`resume={path}` is of a run that trains something else ({'; '.join(wrong)}). Restore these settings "
                "or leave `resume` out."
            )


def _what_it_trains(cfg: Any) -> dict[str, Any]:
    mixer = {key: value for key, value in plain(cfg.mixer).items() if key in ("_target_", "name")}
    nodes = {name: plain(cfg[name]) for name in ("model", "lora", "objective")}
    nodes["model"].pop("recommended", None)
    tasks = sorted(name for name, entry in plain(cfg.data.tasks).items() if entry is not None)
    return nodes | {"mixer": mixer, "data.tasks": tasks}

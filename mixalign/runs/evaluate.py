"""The only evaluation of a trained model: by a run at its end, by `mixalign evaluate`, and of merges."""

from pathlib import Path
from typing import Any

import lightning as L
from torch import nn

from mixalign.data.batches.even import even_loader
from mixalign.frozen.cache import Frozen, load_frozen
from mixalign.frozen.recipes import mean_length
from mixalign.jobs.job import Job
from mixalign.mixers.base import Mixer
from mixalign.models.precision import cast_weights
from mixalign.models.reference import LIVE
from mixalign.runs.summary import eval_json
from mixalign.runs.yardstick import excess_over
from mixalign.together.agree import world
from mixalign.together.trainer import trainer_options
from mixalign.training.engine import prepare_model
from mixalign.training.fit import Fit, make_trainer
from mixalign.training.module import AlignModule

__all__ = ["align_module", "evaluate", "evaluate_folder", "prepare_generalist"]


def align_module(job: Job, mixer: Mixer, model: nn.Module, policy: nn.Module | None = None) -> AlignModule:
    """The module that trains and judges a generalist.

    Args:
        policy: the reference policy, where the model is not that any more.
    """
    mode, live = job.settings.reference.mode, None
    if job.objective.uses_reference and mode != "cached":
        mode = mode if policy is None else "frozen_copy"
        live = LIVE[mode](cast_weights(model if mode == "adapter_off" or policy is None else policy, job.precision))
        for _, _, dataset in job.all_datasets:
            dataset.columns.pop("reference_logp", None)
    return AlignModule(
        model,
        job.objective,
        job.tasks,
        job.settings.optimizer,
        descends_on=mixer.descends_on,
        clip=mixer.clip,
        live_reference=live,
        seed=job.settings.seed,
    )


def prepare_generalist(job: Job, model: nn.Module, steps: int) -> list[str]:
    """Applies the engine's choices for a training of so many steps, and names them.

    An evaluation applies them as well, as compiled layers round differently.
    """
    positions = steps * job.settings.batch_size * mean_length(job.data["train"])
    return prepare_model(model, job.settings.engine, positions)


def evaluate(job: Job, trainer: L.Trainer, module: AlignModule, split: str) -> dict[str, Any]:
    """The losses, excess and metrics of a model on one split of the tasks.

    Returns:
        What `eval.json` holds; see `eval_json`.
    """
    rank, size = trainer.global_rank, trainer.world_size
    loader = even_loader(job.data[split], job.eval_batch_size, rank, size, job.layout)
    trainer.validate(module, loader, verbose=False)
    settings = job.settings
    return eval_json(
        mixer=settings.mixer_name,
        static=settings.mixer.static,
        objective=settings.objective_name,
        seed=settings.seed,
        split=split,
        split_of=job.splits_of(split),
        tasks=job.tasks,
        evaluation=module.evaluation,
    )


def evaluate_folder(job: Job, reference: Frozen, folder: Path, split: str) -> dict[str, Any]:
    """The same of the model in a folder, on the processes and in the precision of the job.

    Args:
        folder: as `save_pretrained` wrote it; adapters are put on the reference policy.
    """
    model = load_frozen(folder, reference)
    prepare_generalist(job, model, job.steps)
    mode = job.settings.reference.mode
    beside = mode == "frozen_copy" or (mode == "adapter_off" and not hasattr(model, "disable_adapter"))  # of a merge
    policy = reference.build() if beside else None
    options = trainer_options(job.settings, job.precision) | {"enable_progress_bar": False}
    trainer = make_trainer(Fit(steps=1, batch_size=world(), trainer=options), job.cache)
    over = excess_over(job, reference)
    return evaluate(job, trainer, align_module(job, job.settings.mixer, model, policy), split) | over

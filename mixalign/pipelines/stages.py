"""The frozen models that a run leans on, and their scores: made once, kept in the cache, reused by name."""

import gc
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from mixalign.data.dataset import TaskDataset
from mixalign.data.module import MixtureData
from mixalign.data.sampler import MixtureSampler
from mixalign.errors import MixalignError
from mixalign.files import replacing, write_json
from mixalign.fingerprint import differences, fingerprint
from mixalign.mixers.fixed import Temperature
from mixalign.models.load import Pretrained, add_lora, weights_fingerprint
from mixalign.objectives.base import Objective
from mixalign.objectives.sft import SFT
from mixalign.pipelines.build import build, plain
from mixalign.pipelines.job import Job, num_steps, rows_fingerprint
from mixalign.pipelines.ranks import is_first, made_once, score_on_ranks, trainer_options, world
from mixalign.scoring.score import frozen_losses
from mixalign.scoring.table import ScoreTable
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.callbacks.progress import MixtureProgress
from mixalign.training.callbacks.specialist_check import SpecialistCheck
from mixalign.training.engine import prepare_model, rows_within
from mixalign.training.fit import Fit, fit, make_trainer
from mixalign.training.module import AlignModule
from mixalign.training.sharding import save_model

__all__ = [
    "Frozen",
    "attach_reference",
    "attach_specialists",
    "find_specialists",
    "load_frozen",
    "mean_length",
    "micro_batch_size",
    "reference_policy",
    "reference_steps",
    "specialist_steps",
]

log = logging.getLogger(__name__)

UNIFORM = Temperature(float("inf"))


@dataclass(frozen=True)
class Frozen:
    """A model that no longer changes.

    Attributes:
        identity: a fingerprint of all that decides its weights.
        build: makes a fresh copy of it.
    """

    identity: str
    build: Callable[[], nn.Module]


def reference_policy(job: Job) -> Frozen:
    """The model that every training of the job starts from: as loaded, or after `reference.sft_steps` of SFT."""
    settings = job.cfg.reference
    base = job.source.build()
    job.fit_to_model(base)
    start = weights_fingerprint(base)
    steps = reference_steps(job)
    if steps == 0:
        return _as_loaded(job, base, start)
    recipe = {
        "stage": "reference",
        "start": start,
        "rows": rows_fingerprint(job.data["train"]),
        "fit": {"steps": steps, "batch_size": settings.sft_batch_size, "lr": settings.sft_lr},
        "optimizer": _optimizer_recipe(job),
        "precision": str(job.cfg.trainer.precision),
        "seed": settings.seed,
    }
    place = job.cache / "reference" / fingerprint(recipe)

    def train() -> nn.Module:
        log.info("reference: %d steps of SFT on the tasks' chosen answers", steps)
        data = [d.first_completion() for d in job.data["train"]]
        how = _fit_settings(job, steps, settings.sft_batch_size)
        return _train(job, base, SFT(), job.tasks, data, how, settings.sft_lr, settings.seed, "reference")

    _ensure(job, place, recipe, train)
    return Frozen(fingerprint(recipe), Pretrained(str(place / "model"), dtype=_dtype(base)).build)


def _as_loaded(job: Job, base: Any, start: str) -> Frozen:
    """The model as the source builds it; written to the cache when adapters need a base that lies on disk."""
    if not plain(job.cfg.lora) or base.config._name_or_path:
        return Frozen(start, job.source.build)
    place = job.cache / "reference" / start
    _ensure(job, place, {"stage": "base", "start": start}, lambda: base)
    return Frozen(start, Pretrained(str(place / "model"), dtype=_dtype(base)).build)


def attach_reference(job: Job, reference: Frozen) -> None:
    """Gives every row its log-probabilities under the reference policy, as the column `reference_logp`."""
    if not job.objective.uses_reference:
        return
    own = [(d, split) for _, split, d in job.all_datasets]
    further = [(d, "reference") for d in job.references if d not in job.data["validation"]]
    with _borrowed(reference, job, [d for d, _ in own + further]) as model:
        for dataset, split in own + further:
            table = _score(job, reference, model, dataset, f"reference {dataset.task} {split}")
            dataset.attach("reference_logp", table.align(dataset))


def attach_specialists(job: Job, reference: Frozen, train: bool) -> bool:
    """Gives every row the loss of its task's specialist, as the column `specialist_loss`.

    Args:
        train: whether to train the specialists that are missing; else nothing is attached unless all are there.

    Returns:
        Whether the losses are attached.
    """
    places = find_specialists(job, reference)
    missing = [task for task, (place, _) in places.items() if not (place / "recipe.json").is_file()]
    if missing and not train:
        return False
    for number, task in enumerate(job.tasks):
        place, recipe = places[task]
        if task in missing:
            log.info("specialist %d/%d: %s", number + 1, len(job.tasks), task)
        _ensure(job, place, recipe, partial(_train_specialist, job, reference, number))
        _attach_losses(job, number, Frozen(fingerprint(recipe), partial(load_frozen, place / "model", reference)))
    return True


def _attach_losses(job: Job, number: int, specialist: Frozen) -> None:
    """Scores the rows of one task by its specialist."""
    by_split = {split: tables[number] for split, tables in job.data.items()}
    with _borrowed(specialist, job, list(by_split.values())) as model:
        for split, dataset in by_split.items():
            table = _score(job, specialist, model, dataset, f"specialist {dataset.task} {split}")
            losses_N = frozen_losses(job.objective, dataset, table.align(dataset), number)
            dataset.attach("specialist_loss", losses_N)


def find_specialists(job: Job, reference: Frozen) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Folder and recipe of every task's specialist, trained or not."""
    found = {}
    settings = job.cfg.specialists
    for number, task in enumerate(job.tasks):
        recipe = {
            "stage": "specialist",
            "task": task,
            "start": reference.identity,
            "rows": rows_fingerprint([job.data["train"][number]]),
            "objective": plain(job.cfg.objective) | job.overrides[number],
            "fit": {"steps": specialist_steps(job, number), "batch_size": settings.batch_size, "lr": settings.lr},
            "optimizer": _optimizer_recipe(job),
            "lora": plain(job.cfg.lora),
            "precision": str(job.cfg.trainer.precision),
            "seed": settings.seed,
        }
        cached = job.cache / "specialists" / f"{task}-{fingerprint(recipe)}"
        found[task] = (Path(settings.dir) / task if settings.dir else cached, recipe)
    return found


def _train_specialist(job: Job, reference: Frozen, number: int) -> nn.Module:
    settings, task = job.cfg.specialists, job.tasks[number]
    model = add_lora(reference.build(), build(job.cfg.lora), settings.seed)
    objective = build(job.cfg.objective, "name").for_tasks([job.overrides[number]])
    data = [job.data["train"][number]]
    how = _fit_settings(job, specialist_steps(job, number), settings.batch_size)
    return _train(job, model, objective, [task], data, how, settings.lr, settings.seed, f"specialist {task}")


def reference_steps(job: Job) -> int:
    """Optimizer steps of SFT before the reference policy is frozen; 0 keeps the model as loaded."""
    s = job.cfg.reference
    if not job.objective.uses_reference or s.sft_steps == 0:
        return 0
    rows = sum(map(len, job.data["train"]))
    return num_steps("reference.sft_", s.sft_steps, s.sft_epochs, rows, s.sft_batch_size)


def specialist_steps(job: Job, task: int) -> int:
    """Optimizer steps of the specialist of one task."""
    s = job.cfg.specialists
    return num_steps("specialists.", s.steps, s.epochs, len(job.data["train"][task]), s.batch_size)


def load_frozen(folder: Path, base: Frozen, trainable: bool = False) -> nn.Module:
    """A model that `save_pretrained` wrote: full weights, or an adapter (`trainable` or frozen) on the base."""
    if not (folder / "adapter_config.json").is_file():
        return Pretrained(str(folder)).build()
    from peft import PeftModel

    return PeftModel.from_pretrained(base.build(), str(folder), is_trainable=trainable)


def _train(
    job: Job,
    model: nn.Module,
    objective: Objective,
    tasks: list[str],
    train: list[TaskDataset],
    how: Fit,
    lr: float,
    seed: int,
    title: str,
) -> nn.Module:
    """Trains one of the models that runs lean on: uniform mixture, no validation, no logs."""
    optimizer = build(job.cfg.optimizer, lr=lr)
    module = AlignModule(model, objective, tasks, optimizer)
    sampler = MixtureSampler([len(d) for d in train], how.batch_size, "stratified", seed)
    mixing = Mixing(UNIFORM, tasks, [len(d) for d in train])
    callbacks = [mixing, SpecialistCheck()]
    if job.cfg.progress:
        callbacks.append(MixtureProgress(mixing, title))
    trainer = make_trainer(how, job.cache, callbacks)
    prepare_model(model, job.engine, how.steps * how.batch_size * mean_length(train))
    fit(trainer, module, MixtureData(train, [], sampler, how.steps, layout=job.layout))
    return module.model


def mean_length(datasets: Sequence[TaskDataset]) -> float:
    """Tokens of a row, on average over tasks."""
    return sum(float(d.length_N.mean()) for d in datasets) / len(datasets)


def _fit_settings(job: Job, steps: int, batch_size: int) -> Fit:
    options = trainer_options(job.cfg) | {"enable_progress_bar": bool(job.cfg.progress), "limit_val_batches": 0}
    micro = micro_batch_size(job, batch_size)
    return Fit(steps, batch_size, micro if micro and batch_size % micro == 0 else None, trainer=options)


def micro_batch_size(job: Job, batch_size: int) -> int | None:
    """Rows of one forward pass: as configured, or as many as `engine.max_tokens` allows; None takes all at once."""
    if job.engine.max_tokens:
        return rows_within(job.engine.max_tokens, job.data["train"], batch_size, world())
    return job.cfg.micro_batch_size


def _optimizer_recipe(job: Job) -> dict[str, Any]:
    return {k: v for k, v in plain(job.cfg.optimizer).items() if k not in ("_target_", "lr")}


def _dtype(model: nn.Module) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def _ensure(job: Job, place: Path, recipe: Mapping[str, Any], train: Callable[[], nn.Module]) -> None:
    """Makes sure that a folder holds the model of a recipe: checks it, or trains it and renames it into place.

    All processes train it together; of several runs that need it, one does.

    Raises:
        MixalignError: when the folder was made by another recipe, naming every setting that differs.
    """
    with made_once(place / "recipe.json", job.cache / "locks") as missing:
        if missing:
            model = train()
            with replacing(place) if is_first() else nullcontext(place) as part:
                save_model(model, job.tokenizer, part / "model", is_first())
                if is_first():
                    write_json(part / "recipe.json", recipe)
    found = json.loads((place / "recipe.json").read_text())
    if wrong := differences(found, recipe):
        raise MixalignError(
            f"{place} is stale: it was made with other settings ({'; '.join(wrong)}). Restore the settings, delete "
            "the folder to have it made again, or point `specialists.dir` or `cache_dir` elsewhere."
        )


@contextmanager
def _borrowed(frozen: Frozen, job: Job, datasets: Sequence[TaskDataset]) -> Any:
    """The model that scores some tables when first asked for, freed afterwards; cached tables never load it."""
    held: list[nn.Module] = []

    def get() -> nn.Module:
        if not held:
            model = frozen.build().to(job.device)
            prepare_model(model, job.engine, sum(int(d.length_N.sum()) for d in datasets), training=False)
            held.append(model)
        return held[0]

    try:
        yield get
    finally:
        held.clear()
        gc.collect()


def _score(job: Job, frozen: Frozen, get: Callable[[], nn.Module], dataset: TaskDataset, title: str) -> ScoreTable:
    recipe = {"model": frozen.identity, "rows": rows_fingerprint([dataset]), "task": dataset.task}
    recipe |= {"precision": str(job.cfg.trainer.precision)}
    path = job.cache / "scores" / f"{fingerprint(recipe)}.safetensors"
    with made_once(path, job.cache / "locks") as missing:
        if missing:
            with tqdm(total=len(dataset), desc=title, unit="row", leave=False, disable=not job.cfg.progress) as bar:
                how = (job.cfg.eval_batch_size, job.layout, str(job.cfg.trainer.precision))
                table = score_on_ranks(get(), dataset, recipe, *how, bar.update)
            if is_first():
                table.save(path)
    return ScoreTable.load(path, recipe)

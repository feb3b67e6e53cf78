"""The frozen models that a run leans on, and their scores: made once, kept in the cache, reused by name."""

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from mixalign.data.dataset import TaskDataset
from mixalign.data.module import MixtureData
from mixalign.data.sampler import MixtureSampler
from mixalign.errors import MixalignError
from mixalign.files import read_json, replacing, write_json
from mixalign.fingerprint import differences, fingerprint
from mixalign.mixers.base import Mixer
from mixalign.mixers.fixed import Temperature
from mixalign.mixers.schedule import Schedule
from mixalign.mixers.wrapped import rule_of
from mixalign.models.load import Pretrained, add_lora, load_adapter, weights_fingerprint
from mixalign.objectives.base import Objective
from mixalign.objectives.sft import SFT
from mixalign.pipelines.build import build, plain
from mixalign.pipelines.costs import metered, spent_on
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
    "attach_baseline",
    "attach_reference",
    "attach_specialists",
    "excess_over",
    "find_specialists",
    "leans_on",
    "load_frozen",
    "mean_length",
    "micro_batch_size",
    "reads_excess",
    "reference_policy",
    "reference_steps",
    "refuse_foreign",
    "specialist_logp",
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
        own = [entry for entry in job.all_datasets if entry[0] == number]
        _attach_losses(job, _trained(place, recipe, reference), "specialist", own)
    return True


def specialist_logp(job: Job, reference: Frozen, datasets: Sequence[TaskDataset]) -> torch.Tensor:
    """Log-probability of the first completion of every row of some tables under each specialist, (K, N), float64."""
    logp = []
    for task, (place, recipe) in find_specialists(job, reference).items():
        specialist = _trained(place, recipe, reference)
        with _borrowed(specialist, job, datasets) as model:
            tables = [_score(job, specialist, model, d, f"specialist {task} on {d.task}").align(d) for d in datasets]
        logp.append(torch.cat([torch.tensor(table[:, 0]) for table in tables]))
    return torch.stack(logp)


def excess_over(mixer: Mixer) -> str:
    """What a rule takes the excess over: `specialists`, or a `baseline`."""
    return getattr(rule_of(mixer), "excess_over", "specialists")


def reads_excess(mixer: Mixer) -> bool:
    """Whether a rule needs the losses of frozen models: its specialists, or its baseline."""
    return mixer.descends_on == "excess" or any("excess" in name for name in mixer.needs)


def leans_on(job: Job, reference: Frozen, mixer: Mixer) -> dict[str, dict[str, Any]]:
    """What was spent on the frozen models whose losses a rule reads, scoring of the training rows included.

    Returns:
        `specialists` or `baseline`, as `excess_over` says -> as `spent_on` has it; empty for a rule that reads none.
    """
    if not reads_excess(mixer):
        return {}
    train = job.data["train"]
    if excess_over(mixer) == "baseline":
        models = [_find_baseline(job, reference, _baseline_mixture(mixer))] * len(train)
    else:
        models = list(find_specialists(job, reference).values())
    recipes = {fingerprint(recipe): recipe for _, recipe in models}
    for (place, recipe), dataset in zip(models, train, strict=True):
        scores = _score_recipe(job, _trained(place, recipe, reference), dataset)
        recipes[fingerprint(scores)] = scores
    return {excess_over(mixer): spent_on(job, list(recipes.values()))}


def attach_baseline(job: Job, reference: Frozen, mixer: Mixer) -> Job:
    """Has the excess of the training rows counted over a baseline: one model of all tasks, on a fixed mixture.

    It is trained like a generalist, for as many steps of as many rows, and kept in the cache.

    Args:
        mixer: its rule says the mixture, as `baseline`.

    Returns:
        The job with the baseline's losses in the column `specialist_loss` of its training rows. The job that was given
        stays as it is; both have the same validation and test rows, on which runs are compared.
    """
    mixture = _baseline_mixture(mixer)
    place, recipe = _find_baseline(job, reference, mixture)
    _ensure(job, place, recipe, partial(_train_baseline, job, reference, mixture))
    tables = [copy(dataset) for dataset in job.data["train"]]
    for table in tables:
        table.columns = dict(table.columns)
    job = replace(job, data=job.data | {"train": tables})
    own = [entry for entry in job.all_datasets if entry[1] == "train"]
    _attach_losses(job, _trained(place, recipe, reference), "baseline", own)
    return job


def _trained(place: Path, recipe: Mapping[str, Any], reference: Frozen) -> Frozen:
    """The model of a recipe, from the cache."""
    return Frozen(fingerprint(recipe), partial(load_frozen, place / "model", reference))


def _attach_losses(job: Job, frozen: Frozen, who: str, tables: Sequence[tuple[int, str, TaskDataset]]) -> None:
    """Gives the rows of some tables, (task, split, table) each, a frozen model's losses as `specialist_loss`."""
    with _borrowed(frozen, job, [dataset for _, _, dataset in tables]) as model:
        for number, split, dataset in tables:
            table = _score(job, frozen, model, dataset, f"{who} {dataset.task} {split}")
            losses_N = frozen_losses(job.objective, dataset, table.align(dataset), number)
            dataset.attach("specialist_loss", losses_N)


def find_specialists(job: Job, reference: Frozen) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Folder and recipe of every task's specialist, trained or not."""
    found = {}
    settings = job.cfg.specialists
    for number, task in enumerate(job.tasks):
        recipe = _recipe(job, reference, [job.data["train"][number]]) | {
            "stage": "specialist",
            "task": task,
            "objective": plain(job.cfg.objective) | job.overrides[number],
            "fit": {"steps": specialist_steps(job, number), "batch_size": settings.batch_size, "lr": settings.lr},
        }
        cached = job.cache / "specialists" / f"{task}-{fingerprint(recipe)}"
        found[task] = (Path(settings.dir) / task if settings.dir else cached, recipe)
    return found


def _baseline_mixture(mixer: Mixer) -> Mixer:
    return Schedule([{"weights": getattr(rule_of(mixer), "baseline", "uniform")}])


def _find_baseline(job: Job, reference: Frozen, mixture: Mixer) -> tuple[Path, dict[str, Any]]:
    """Folder and recipe of the baseline, trained or not."""
    cfg, train = job.cfg, job.data["train"]
    rows_K = torch.tensor([len(d) for d in train], dtype=torch.float64)
    recipe = _recipe(job, reference, train) | {
        "stage": "baseline",
        "mixture": mixture.init(rows_K)[0].sample_K.tolist(),
        "objective": plain(cfg.objective),
        "overrides": job.overrides,
        "fit": {"steps": cfg.steps, "batch_size": cfg.batch_size, "lr": cfg.optimizer.lr},
    }
    return job.cache / "baseline" / fingerprint(recipe), recipe


def _recipe(job: Job, reference: Frozen, train: Sequence[TaskDataset]) -> dict[str, Any]:
    """What decides the weights of every model that is trained from the reference policy and then frozen."""
    return {
        "start": reference.identity,
        "rows": rows_fingerprint(train),
        "optimizer": _optimizer_recipe(job),
        "lora": plain(job.cfg.lora),
        "precision": str(job.cfg.trainer.precision),
        "seed": job.cfg.specialists.seed,
    }


def _train_specialist(job: Job, reference: Frozen, number: int) -> nn.Module:
    settings, task = job.cfg.specialists, job.tasks[number]
    model = add_lora(reference.build(), build(job.cfg.lora), settings.seed)
    objective = build(job.cfg.objective, "name").for_tasks([job.overrides[number]])
    data = [job.data["train"][number]]
    how = _fit_settings(job, specialist_steps(job, number), settings.batch_size)
    return _train(job, model, objective, [task], data, how, settings.lr, settings.seed, f"specialist {task}")


def _train_baseline(job: Job, reference: Frozen, mixture: Mixer) -> nn.Module:
    cfg, seed = job.cfg, job.cfg.specialists.seed
    log.info("baseline: %d steps of %d rows of all tasks", cfg.steps, cfg.batch_size)
    model = add_lora(reference.build(), build(cfg.lora), seed)
    how = _fit_settings(job, cfg.steps, cfg.batch_size)
    what = (job, model, job.objective, job.tasks, job.data["train"], how)
    return _train(*what, cfg.optimizer.lr, seed, "baseline", mixture)


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
    return load_adapter(base.build(), folder, trainable)


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
    mixture: Mixer = UNIFORM,
) -> nn.Module:
    """Trains one of the models that runs lean on: fixed mixture, no validation, no logs."""
    optimizer = build(job.cfg.optimizer, lr=lr)
    module = AlignModule(model, objective, tasks, optimizer)
    sampler = MixtureSampler([len(d) for d in train], how.batch_size, "stratified", seed)
    mixing = Mixing(mixture, tasks, [len(d) for d in train])
    callbacks = [mixing, SpecialistCheck(judges=False)]
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
            if not place.is_relative_to(job.cache):
                refuse_foreign(place)
            with metered(job, recipe):
                model = train()
            with replacing(place) if is_first() else nullcontext(place) as part:
                save_model(model, job.tokenizer, part / "model", is_first())
                if is_first():
                    write_json(part / "recipe.json", recipe)
    found = read_json(place / "recipe.json")
    if wrong := differences(found, recipe):
        raise MixalignError(
            f"{place} is stale: it was made with other settings ({'; '.join(wrong)}). Restore the settings, delete "
            "the folder to have it made again, or point `specialists.dir` or `cache_dir` elsewhere."
        )


def refuse_foreign(place: Path) -> None:
    """Refuses to train a model in the place of a folder that is not one of ours, which would be removed.

    Raises:
        MixalignError: when there is such a folder.
    """
    if place.exists() and not (place / "recipe.json").is_file():
        raise MixalignError(
            f"{place} is there already, and is no model that mixalign trained: it has no recipe.json. Point "
            "`specialists.dir` elsewhere."
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
        if held:
            held.clear()
            gc.collect()


def _score_recipe(job: Job, frozen: Frozen, dataset: TaskDataset) -> dict[str, Any]:
    recipe = {"model": frozen.identity, "rows": rows_fingerprint([dataset]), "task": dataset.task}
    return recipe | {"precision": str(job.cfg.trainer.precision)}


def _score(job: Job, frozen: Frozen, get: Callable[[], nn.Module], dataset: TaskDataset, title: str) -> ScoreTable:
    recipe = _score_recipe(job, frozen, dataset)
    path = job.cache / "scores" / f"{fingerprint(recipe)}.safetensors"
    with made_once(path, job.cache / "locks") as missing:
        if missing:
            total, shown = len(dataset), {"unit": "row", "leave": False, "disable": not job.cfg.progress}
            with metered(job, recipe), tqdm(total=total, desc=title, **shown) as bar:
                how = (job.cfg.eval_batch_size, job.layout, str(job.cfg.trainer.precision))
                table = score_on_ranks(get(), dataset, recipe, *how, bar.update)
            if is_first():
                table.save(path)
    return ScoreTable.load(path, recipe)

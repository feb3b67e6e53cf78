"""Models that no longer change, and their scores of rows: made once, kept on disk by the recipe that made them."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import nn

from mixalign.bars import progress
from mixalign.course import READING
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.files import read_json, replacing, write_json
from mixalign.fingerprint import differences, fingerprint
from mixalign.frozen.costs import metered
from mixalign.frozen.score import score_on_ranks
from mixalign.frozen.table import ScoreTable
from mixalign.frozen.unfinished import Unfinished, forget, unfinished
from mixalign.jobs.job import Job, rows_fingerprint
from mixalign.models.adapters import load_adapter
from mixalign.models.load import Pretrained
from mixalign.objectives.frozen_losses import frozen_losses
from mixalign.stopping import stage
from mixalign.together.agree import is_first
from mixalign.together.locks import made_once
from mixalign.training.engine import prepare_model

__all__ = [
    "CachedModel",
    "Frozen",
    "attach_losses",
    "ensure",
    "load_frozen",
    "on_loan",
    "refuse_foreign",
    "score",
    "score_path",
    "score_recipe",
]

Loan = Callable[[], nn.Module]
"""Gives a model, which is loaded when it is asked for first."""


@dataclass(frozen=True)
class Frozen:
    """A model that no longer changes.

    Attributes:
        identity: a fingerprint of all that decides its weights.
        build: makes a fresh copy of it.
        spare: a copy that is there already, which `build` gives first.
    """

    identity: str
    build: Callable[[], nn.Module]
    spare: list[nn.Module] = field(default_factory=list, compare=False)

    def make_room(self) -> None:
        """Frees the spare copy, for another model that is loaded."""
        if self.spare:
            self.spare.clear()
            gc.collect()


@dataclass(frozen=True)
class CachedModel:
    """A model that was trained from the reference policy, or will be.

    Attributes:
        place: its folder, which gets recipe.json, metrics.csv and model/.
        recipe: all that decides its weights.
    """

    place: Path
    recipe: Mapping[str, Any]

    @cached_property
    def identity(self) -> str:
        return fingerprint(self.recipe)

    @property
    def is_made(self) -> bool:
        return (self.place / "recipe.json").is_file()

    def frozen(self, reference: Frozen) -> Frozen:
        """The model, to be read; adapters are put on the reference policy."""
        return Frozen(self.identity, partial(load_frozen, self.place / "model", reference))


def load_frozen(folder: Path, base: Frozen, trainable: bool = False) -> nn.Module:
    """A model that `save_pretrained` wrote: full weights, or an adapter (`trainable` or frozen) on the base."""
    model: nn.Module
    if (folder / "adapter_config.json").is_file():
        model = load_adapter(base.build(), folder, trainable)
    else:
        base.make_room()
        model = Pretrained(str(folder)).build()
    return model


def ensure(job: Job, wanted: CachedModel, make: Callable[[Unfinished], nn.Module]) -> None:
    """Makes sure that a folder holds the model of its recipe: checks it, or makes it and renames it into place.

    All processes make it together; of several runs that need it, one does. One that is stopped or killed leaves
    checkpoints, from which the next one goes on.

    Raises:
        MixalignError: when the folder was made by another recipe, naming every setting that differs.
    """
    from mixalign.training.sharding import save_model  # loads Lightning, which a plan need not wait for

    place = wanted.place
    with made_once(place / "recipe.json", job.cache / "locks") as missing:
        if missing:
            if not place.is_relative_to(job.cache):
                refuse_foreign(place)
            with unfinished(job, wanted.recipe) as left:
                model = make(left)
            with replacing(place) if is_first() else nullcontext(place) as part:
                save_model(model, job.tokenizer, part / "model", is_first())
                if is_first():
                    left.give_curve(part)
                    write_json(part / "recipe.json", wanted.recipe)
            forget(job, wanted.recipe)
    if wrong := differences(read_json(place / "recipe.json"), wanted.recipe):
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
def on_loan(frozen: Frozen, job: Job, datasets: Sequence[TaskDataset]) -> Iterator[Loan]:
    """The model that scores some tables, freed afterwards; tables that are in the cache never load it."""
    held: list[nn.Module] = []

    def get() -> nn.Module:
        if not held:
            model = frozen.build().to(job.device)
            tokens = sum(int(d.length_N.sum()) for d in datasets)
            prepare_model(model, job.settings.engine, tokens, training=False)
            held.append(model)
        return held[0]

    try:
        yield get
    finally:
        if held:
            held.clear()
            gc.collect()


def score_recipe(job: Job, frozen: Frozen, dataset: TaskDataset) -> dict[str, Any]:
    """All that decides the scores of a table under a model."""
    recipe = {"model": frozen.identity, "rows": rows_fingerprint([dataset], weighted=False), "task": dataset.task}
    return recipe | {"precision": job.precision}


def score_path(job: Job, recipe: Mapping[str, Any]) -> Path:
    """Where the scores of a recipe are, made or not."""
    return job.cache / "scores" / f"{fingerprint(recipe)}.safetensors"


def score(job: Job, frozen: Frozen, loan: Loan, dataset: TaskDataset, title: str) -> ScoreTable:
    """A model's log-probabilities of every row, from the cache, or made by all processes and put there.

    Args:
        loan: of the model, from `on_loan`.
        title: of the progress bar.
    """
    recipe = score_recipe(job, frozen, dataset)
    path = score_path(job, recipe)
    with made_once(path, job.cache / "locks") as missing:
        if missing:
            shown = progress(job.course.title(title), len(dataset), "rows", disabled=not job.settings.progress)
            with stage(f"the scoring ({title})"), metered(job, recipe) as cost, shown as bar:
                batch_size, cost.work = job.eval_batch_size, {READING: float(dataset.length_N.sum())}
                table = score_on_ranks(loan(), dataset, recipe, batch_size, job.layout, job.precision, bar.advance)
            job.course.worked(READING, cost.work[READING], cost.seconds)
            if is_first():
                table.save(path)
    return ScoreTable.load(path, recipe)


def attach_losses(job: Job, frozen: Frozen, who: str, tables: Sequence[tuple[int, str, TaskDataset]]) -> None:
    """Gives the rows of some tables, (task, split, table) each, a frozen model's losses as `specialist_loss`."""
    with on_loan(frozen, job, [dataset for _, _, dataset in tables]) as loan:
        for task, split, dataset in tables:
            table = score(job, frozen, loan, dataset, f"{who} {dataset.task} {split}")
            dataset.attach("specialist_loss", frozen_losses(job.objective, dataset, table.align(dataset), task))

"""What every verb begins with: settings become tokenised tasks and an objective; nothing is trained yet."""

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mixalign.config.defaults import AUTO
from mixalign.config.settings import RunSettings
from mixalign.course import Course
from mixalign.data.batches.collate import Layout, collate
from mixalign.data.batches.pack import pack
from mixalign.data.dataset import TaskDataset
from mixalign.data.read.sources import Look, TaskSpec, load_rows
from mixalign.data.scorers import Scorer
from mixalign.data.tokens.cache import TokenCache
from mixalign.data.tokens.tokenise import TokenCounts
from mixalign.errors import MixalignError
from mixalign.jobs.check_model import check_model, warn_of_dropout
from mixalign.jobs.day import template_day
from mixalign.jobs.order import as_begun, plain_tasks
from mixalign.jobs.tasks import (
    filled,
    read_task,
    refuse_kinds,
    scorer_of,
    target_specs,
    task_specs,
    warn_of_few,
    warn_of_losses,
)
from mixalign.jobs.validations import validation_interval
from mixalign.models.gguf import GGUF
from mixalign.models.tokenizer_class import tokenizer_of
from mixalign.objectives.base import Objective
from mixalign.stopping import stage
from mixalign.training.engine import choose_layout, choose_precision, prepare_process
from mixalign.types import Example

__all__ = ["SIZES", "Job", "num_steps", "prepare", "rows_fingerprint"]

log = logging.getLogger(__name__)
SIZES = ("micro_batch_size", "eval_batch_size")
FEW = 8  # rows that are read at a time where nothing says how many


@dataclass(frozen=True)
class Job:
    """The settings of a run with its tasks read and tokenised.

    Attributes:
        tasks: names of the K tasks, in the order of every K-vector.
        overrides: objective settings of each task.
        data: `train`, `validation` and, where a task has one, `test`: one table a task. In the place of a test table
            that a task lacks is its validation table.
        targets: tables whose loss IDEAL lowers: validation splits, or tables of their own.
        counts: (split, what tokenisation kept and dropped), one entry a task and split.
        objective: with the settings of every task.
        steps: optimizer steps of the generalist.
        val_every: optimizer steps between two of its validations.
        precision: Lightning's; `auto` until `fitted_to` has seen the model.
        micro_batch_size: rows of a training's forward pass on one process, at most; None: all of its batch.
        eval_batch_size: rows of a forward pass in validation and scoring.
        open_sizes: which of these two are still to be chosen, by the memory that the model leaves.
        looks: what is worth knowing of each task's rows.
        scorers: of generated answers of each task; None where it has none.
        day: what the chat template takes for today; None when it prints no date.
        layout: makes a batch of rows; `fitted_to` chooses it.
        start: fingerprint of the base model, as `weights_fingerprint` has it; empty until it was read.
        course: of the run that the job is, told of what is done.
    """

    settings: RunSettings
    tokenizer: Any
    tasks: list[str]
    overrides: list[dict[str, Any]]
    data: dict[str, list[TaskDataset]]
    targets: list[TaskDataset]
    counts: list[tuple[str, TokenCounts]]
    objective: Objective
    steps: int
    val_every: int
    precision: str
    micro_batch_size: int | None = None
    eval_batch_size: int = FEW
    open_sizes: tuple[str, ...] = ()
    looks: dict[str, Look] = field(default_factory=dict)
    scorers: dict[str, Scorer | None] = field(default_factory=dict)
    day: str | None = None
    layout: Layout = field(default=collate)
    start: str = ""
    course: Course = field(default_factory=Course, compare=False)

    @property
    def target_objective(self) -> Objective:
        """The objective with the settings of every task, and behind them of target tables that are no task."""
        others = dict.fromkeys(d.task for d in self.targets if d.task not in self.tasks)
        return self.settings.objective.for_tasks([*self.overrides, *({} for _ in others)])

    def fitted_to(self, model: nn.Module) -> "Job":
        """The job with the choices that depend on the model: layout of batches, and precision when it is `auto`.

        Raises:
            MixalignError: when the model cannot read the rows, or not take the adapter.
        """
        tables = [d for _, _, d in self.all_datasets]
        check_model(model, self.tokenizer, [*tables, *self.targets], self.settings.lora)
        warn_of_dropout(model, self.objective.form)
        layout = choose_layout(self.settings.engine, model, tables)
        precision = choose_precision(str(self.settings.trainer.precision), model)
        log.info("engine: %s batches, precision %s", "packed" if layout is pack else "padded", precision)
        return replace(self, layout=layout, precision=precision)

    @property
    def plain(self) -> dict[str, Any]:
        """The whole configuration as plain data, with the steps of this job, and its choices in place of `auto`."""
        plain = dict(self.settings.plain) | {"steps": self.steps, "val_every": self.val_every}
        plain["data"] = dict(plain["data"]) | {"tasks": plain_tasks(plain["data"]["tasks"], self.tasks)}
        if self.day is not None:
            plain["data"]["date"] = self.day
        plain |= {key: getattr(self, key) for key in SIZES if key not in self.open_sizes}
        if plain["trainer"]["precision"] == "auto":
            plain["trainer"] = dict(plain["trainer"]) | {"precision": self.precision}
        return plain

    @property
    def device(self) -> str:
        """Where models are read outside of Lightning's trainer."""
        return "cuda" if torch.cuda.is_available() and self.settings.trainer.accelerator != "cpu" else "cpu"

    @property
    def cache(self) -> Path:
        return self.settings.cache_dir.resolve()  # adapters name their base by it

    @property
    def all_datasets(self) -> list[tuple[int, str, TaskDataset]]:
        """(task, split, table) of every task."""
        return [(k, split, d) for split, tables in self.data.items() for k, d in enumerate(tables)]

    @property
    def final_split(self) -> str:
        """The split on which a trained model is judged."""
        return "test" if "test" in self.data else "validation"

    def splits_of(self, split: str) -> list[str]:
        """The split that each task's rows are of where all are judged on this one (K,)."""
        lacks = [split == "test" and d is v for d, v in zip(self.data[split], self.data["validation"], strict=True)]
        return ["validation" if is_lacking else split for is_lacking in lacks]

    @property
    def rows_K(self) -> torch.Tensor:
        """Training rows of each task (K,), float64."""
        return torch.tensor([len(table) for table in self.data["train"]], dtype=torch.float64)


@stage("the reading of the rows")
def prepare(settings: RunSettings, begun: Sequence[str] = ()) -> Job:
    """Reads and tokenises every task.

    Args:
        begun: the tasks in the order in which the run began with them; see `as_begun`.

    Raises:
        MixalignError: for rows, or a setting of a task, that cannot be used.
    """
    prepare_process(settings.engine)
    settings = _unpacked(settings)
    specs = as_begun(task_specs(settings.data), begun, settings.plain)
    overrides = [dict(spec.objective) for spec in specs.values()]
    objective = settings.objective.for_tasks(overrides)
    refuse_kinds(specs, objective)
    tokenizer, keep_class = tokenizer_of(settings.model, settings.cache_dir)
    day = template_day(tokenizer, settings.data.date, settings.cache_dir)
    tokens = _Tokens(_token_cache(settings, tokenizer, day), objective, settings.data.max_length)
    made, looks = dict[str, dict[str, TaskDataset]](), dict[str, Look]()
    for task, spec in specs.items():
        rows = read_task(task, spec, settings.data, objective.form, tokens.chat, settings.cache_dir)
        looks[task] = rows.look
        for split in [*rows]:  # each is given away: what follows has no need of it
            made.setdefault(split, {})[task] = tokens.table(task, spec, split, rows.pop(split))
        rows.keep()
    keep_class()
    data = filled(made)
    targets = _targets(settings, specs, data["validation"], tokens)
    warn_of_losses(tokens.counts)
    warn_of_few(specs, tokens.counts)
    steps = num_steps("", settings.steps, settings.epochs, sum(map(len, data["train"])), settings.batch_size)
    val_every, why = validation_interval(settings, steps, data["train"], data["validation"])
    return Job(
        settings=settings if not why else replace(settings, chosen=(*settings.chosen, why)),
        tokenizer=tokenizer,
        tasks=list(specs),
        overrides=overrides,
        data=data,
        targets=targets,
        counts=tokens.counts,
        objective=objective,
        steps=steps,
        val_every=val_every,
        precision=str(settings.trainer.precision),
        open_sizes=tuple(key for key in SIZES if getattr(settings, key) == AUTO),
        **{key: getattr(settings, key) for key in SIZES if getattr(settings, key) != AUTO},
        looks=looks,
        scorers={task: scorer_of(task, spec) for task, spec in specs.items()},
        day=day,
    )


def _token_cache(settings: RunSettings, tokenizer: Any, day: str | None) -> TokenCache:
    data, folder = settings.data, settings.cache_dir / "tokens"
    return TokenCache(tokenizer, folder if data.cache_tokens else None, data.workers, day, data.on_lost_text)


def _unpacked(settings: RunSettings) -> RunSettings:
    """With the model as a folder, where it is something else that has to become one."""
    source = settings.model
    return replace(settings, model=source.unpacked(settings.cache_dir)) if isinstance(source, GGUF) else settings


@dataclass(frozen=True)
class _Tokens:
    """Tokenises tables, and keeps what each of them lost."""

    cache: TokenCache
    objective: Objective
    max_length: int
    counts: list[tuple[str, TokenCounts]] = field(default_factory=list)

    @property
    def chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return self.cache.tokenizer.chat_template is not None

    def table(self, task: str, spec: TaskSpec, split: str, examples: Sequence[Example]) -> TaskDataset:
        table, count = self.cache.tokenise(
            examples,
            task=task,
            form=self.objective.form,
            max_length=spec.max_length or self.max_length,
            chat_template_kwargs=dict(spec.chat_template_kwargs),
            train_on=spec.train_on,
            source=split,
        )
        self.counts.append((split, count))
        return table


def _targets(
    settings: RunSettings, specs: dict[str, TaskSpec], validation: list[TaskDataset], tokens: _Tokens
) -> list[TaskDataset]:
    by_task, on_bad_row = dict(zip(specs, validation, strict=True)), settings.data.on_bad_row
    return [
        by_task[name]
        if spec is None
        else tokens.table(name, spec, "target", load_rows(name, spec, on_bad_row=on_bad_row, chat=tokens.chat))
        for name, spec in target_specs(settings.data, list(specs)).items()
    ]


def num_steps(group: str, steps: int | None, epochs: float | None, rows: int, batch_size: int) -> int:
    """Optimizer steps of a training: `steps`, or when that is None as many as `epochs` passes over the rows take.

    Args:
        group: where the two settings are, for messages: `` or `specialists.`.

    Raises:
        MixalignError: when neither is set.
    """
    if steps is not None:
        return steps
    if epochs is None:
        raise MixalignError(
            f"`{group}epochs` is None, but must be a number above 0: set `{group}steps` or `{group}epochs`."
        )
    return math.ceil(epochs * rows / batch_size)


def rows_fingerprint(datasets: Sequence[TaskDataset], *, weighted: bool = True) -> str:
    """Changes with any token, label or weight of any row, and with the order of rows.

    Args:
        weighted: whether weights are looked at; they change no score of a row.
    """
    digest = hashlib.sha256()
    for dataset in datasets:
        digest.update(f"{dataset.task}:{len(dataset)}:".encode())
        digest.update(np.ascontiguousarray(dataset.row_id_N).data)
        if weighted and "weight" in dataset.columns:
            digest.update(b"weight:")
            digest.update(np.ascontiguousarray(dataset.columns["weight"]).data)
    return digest.hexdigest()[:16]

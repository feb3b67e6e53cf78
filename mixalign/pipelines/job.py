"""What every verb begins with: the tokenizer, the tokenised tasks, the objective, the cache."""

import hashlib
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from mixalign.data.collate import Layout, collate
from mixalign.data.dataset import TaskDataset
from mixalign.data.generated import generate
from mixalign.data.pack import pack
from mixalign.data.sources import TaskSpec, discover_tasks, load_rows, load_task
from mixalign.data.token_cache import TokenCache
from mixalign.data.tokenise import TokenCounts
from mixalign.errors import MixalignError, did_you_mean
from mixalign.models.load import ModelSource
from mixalign.objectives.base import Objective
from mixalign.pipelines.build import build, plain
from mixalign.pipelines.check_model import check_model
from mixalign.pipelines.check_settings import check_settings
from mixalign.training.engine import Engine, choose_layout, choose_precision, prepare_process
from mixalign.types import Example

__all__ = ["Job", "num_steps", "prepare", "rows_fingerprint"]

log = logging.getLogger(__name__)


@dataclass
class Job:
    """One configuration, read and tokenised; nothing of it has been trained.

    Attributes:
        source: builds the model that everything starts from.
        tasks: names of the K tasks, in the order of every K-vector.
        overrides: objective settings of each task.
        data: `train`, `validation` and, where every task has one, `test`: one table a task.
        counts: (split, what tokenisation kept and dropped), one entry a task and split.
        references: tables whose loss is to fall (mixer=ideal): validation splits, or tables of their own.
        objective: with the settings of every task.
        engine: how trainings are made fast.
        layout: makes a batch of rows; chosen by `fit_to_model`.
    """

    cfg: DictConfig
    source: ModelSource
    tokenizer: Any
    tasks: list[str]
    overrides: list[dict[str, Any]]
    data: dict[str, list[TaskDataset]]
    references: list[TaskDataset]
    counts: list[tuple[str, TokenCounts]]
    objective: Objective
    engine: Engine
    layout: Layout = collate

    @property
    def reference_objective(self) -> Objective:
        """The objective with the settings of every task, and behind them of references that are no task."""
        others = dict.fromkeys(d.task for d in self.references if d.task not in self.tasks)
        return build(self.cfg.objective, "name").for_tasks([*self.overrides, *({} for _ in others)])

    def fit_to_model(self, model: nn.Module) -> None:
        """Takes the choices that depend on the model: layout of batches, and precision when it is `auto`.

        Raises:
            MixalignError: when the model cannot read the rows, or not take the adapter.
        """
        tables = [d for _, _, d in self.all_datasets]
        check_model(model, self.tokenizer, [*tables, *self.references], build(self.cfg.lora))
        self.layout = choose_layout(self.engine, model, [d for _, _, d in self.all_datasets])
        self.cfg.trainer.precision = choose_precision(self.cfg.trainer.precision, model)
        kind = "packed" if self.layout is pack else "padded"
        log.info("engine: %s batches, precision %s", kind, self.cfg.trainer.precision)

    @property
    def device(self) -> str:
        """Where models are read outside of Lightning's trainer."""
        return "cuda" if torch.cuda.is_available() and self.cfg.trainer.accelerator != "cpu" else "cpu"

    @property
    def cache(self) -> Path:
        return Path(self.cfg.cache_dir).expanduser().resolve()  # adapters name their base by it

    @property
    def all_datasets(self) -> list[tuple[int, str, TaskDataset]]:
        """(task, split, table) of every task."""
        return [(k, split, d) for split, tables in self.data.items() for k, d in enumerate(tables)]


def prepare(cfg: DictConfig) -> Job:
    """Reads and tokenises every task, and sets the configuration's `steps` and `val_every` where they follow from it.

    Raises:
        MixalignError: for anything in the configuration or the rows that cannot be used.
    """
    check_settings(cfg)
    engine = build(cfg.engine)
    prepare_process(engine)
    source = build(cfg.model, "recommended")
    specs = _specs(cfg.data)
    objective = build(cfg.objective, "name")
    overrides = [dict(spec.objective) for spec in specs.values()]
    objective = objective.for_tasks(overrides)
    tokenizer = source.tokenizer()
    # get: the config.yaml of an older run, which `evaluate` reads, lacks these two
    folder = Path(cfg.cache_dir).expanduser() / "tokens" if cfg.data.get("cache_tokens", True) else None
    cache = TokenCache(tokenizer, folder, cfg.data.get("workers"))
    data: dict[str, list[TaskDataset]] = {}
    counts: list[tuple[str, TokenCounts]] = []

    def read(task: str, spec: TaskSpec, split: str, examples: list[Example]) -> TaskDataset:
        table, count = cache.tokenise(
            examples,
            task=task,
            form=objective.form,
            max_length=spec.max_length or cfg.data.max_length,
            chat_template_kwargs=dict(spec.chat_template_kwargs),
            source=split,
        )
        counts.append((split, count))
        return table

    for task, spec in specs.items():
        for split, examples in _rows(task, spec, cfg.data).items():
            data.setdefault(split, []).append(read(task, spec, split, examples))
    if len(data.get("test", [])) != len(specs):
        data.pop("test", None)
    given = _reference_specs(cfg.data.get("reference"), list(specs))
    validation = dict(zip(specs, data["validation"], strict=True))
    references = [
        validation[name] if spec is None else read(name, spec, "reference", load_rows(name, spec))
        for name, spec in given.items()
    ]
    _report(counts)
    cfg.steps = num_steps("", cfg.steps, cfg.epochs, sum(map(len, data["train"])), cfg.batch_size)
    cfg.val_every = cfg.val_every or max(1, cfg.steps // 10)
    return Job(cfg, source, tokenizer, list(specs), overrides, data, references, counts, objective, engine)


def num_steps(group: str, steps: int | None, epochs: float | None, rows: int, batch_size: int) -> int:
    """Optimizer steps of a training: `steps`, or when that is None as many as `epochs` passes over the rows take.

    Args:
        group: where the two settings are, for messages: `` or `specialists.`.

    Raises:
        MixalignError: when neither is set, or the one that counts is not positive.
    """
    amount, key = (epochs, "epochs") if steps is None else (steps, "steps")
    kind, wanted = (int | float, "a number") if steps is None else (int, "a whole number")
    if not isinstance(amount, kind) or amount <= 0:
        raise MixalignError(
            f"`{group}{key}` is {amount}, but must be {wanted} above 0: set `{group}steps` or `{group}epochs`."
        )
    return math.ceil(amount * rows / batch_size) if steps is None else steps


def rows_fingerprint(datasets: Sequence[TaskDataset]) -> str:
    """Changes with any token of any row, and with the order of rows."""
    digest = hashlib.sha256()
    for dataset in datasets:
        digest.update(f"{dataset.task}:{len(dataset)}:".encode())
        digest.update(np.ascontiguousarray(dataset.row_id_N).data)
    return digest.hexdigest()[:16]


def _specs(data: DictConfig) -> dict[str, TaskSpec]:
    """The tasks of `data.root` and `data.tasks`; an entry of the latter refines or adds one, null removes it."""
    found: dict[str, Any] = dict(discover_tasks(data.root)) if data.root else {}
    for task, entry in plain(data.tasks).items():
        if entry is None:
            found.pop(task, None)
            continue
        given = TaskSpec.from_mapping(task, entry)
        task = str(task)  # YAML reads 1 as a number
        found[task] = _merge(found[task], given) if task in found else given
    for task in found:
        if re.search(r"[/\\\x00-\x1f]|^\.|^$", str(task)):
            raise MixalignError(f"A task is called {task!r}, but names become files: no slash, and no dot in front.")
    if not found:
        raise MixalignError(
            "There is no task. Set `data.root` to a folder of tasks, or name them one by one: "
            "`data.tasks.math.path=math.jsonl`."
        )
    _refuse_twins(found)
    return found


def _reference_specs(given: Any, tasks: list[str]) -> dict[str, TaskSpec | None]:
    """Where the rows of each reference table are; None: in the validation split of the task of that name."""
    given = OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given
    if isinstance(given, Mapping) and given:
        return {name: TaskSpec.from_mapping(name, entry) for name, entry in given.items()}
    names = [given] if isinstance(given, str) else list(given or tasks)
    for name in names:
        if name not in tasks:
            raise MixalignError(f"`data.reference` names `{name}`, which is no task. {did_you_mean(str(name), tasks)}")
    return dict.fromkeys(names)


def _merge(base: TaskSpec, over: TaskSpec) -> TaskSpec:
    default = TaskSpec()
    changed = {f.name: getattr(over, f.name) for f in fields(over) if getattr(over, f.name) != getattr(default, f.name)}
    return TaskSpec(**(asdict(base) | changed))


def _refuse_twins(specs: dict[str, TaskSpec]) -> None:
    """Two tasks with the same rows would count those rows twice."""
    seen: dict[tuple, str] = {}
    for task, spec in specs.items():
        if spec.path is None:
            continue
        key = (str(Path(spec.path).resolve()), spec.name, str(spec.data_files), spec.data_dir, spec.split)
        if key in seen:
            raise MixalignError(
                f"Tasks `{seen[key]}` and `{task}` are duplicates: both read {spec.path}. Remove one, or give them "
                "different files or splits."
            )
        seen[key] = task


def _rows(task: str, spec: TaskSpec, data: DictConfig) -> dict[str, list[Example]]:
    if spec.generator is None:
        return load_task(task, spec, validation_fraction=data.validation_fraction, seed=data.seed)
    sizes = {
        "train": spec.rows or 1000,
        "validation": spec.validation_rows or 250,
        "test": spec.test_rows or 250,
    }
    return {split: generate(spec.generator, rows, split, data.seed) for split, rows in sizes.items()}


def _report(counts: list[tuple[str, TokenCounts]]) -> None:
    """Says what tokenisation dropped or cut, by task; silent when nothing was."""
    for split, c in counts:
        parts = [
            (c.dropped_long_prompt, "dropped: the prompt alone fills max_length"),
            (c.dropped_unsupervised, "dropped: no token to learn from"),
            (c.truncated, "truncated at max_length"),
            (c.prefix_mismatch, "with a prompt that the tokenizer merges into the answer"),
            (c.same, "with the same tokens in `chosen` and `rejected`, which teach nothing"),
        ]
        said = [f"{n} {what}" for n, what in parts if n]
        if said:
            log.warning("Task `%s` (%s): of %d rows, %s.", c.task, split, c.rows, "; ".join(said))

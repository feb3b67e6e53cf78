"""Which tasks a job has: those of a folder, refined and extended by the configuration."""

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mixalign.config.build import allowed_function
from mixalign.config.settings import DataSettings
from mixalign.data.dataset import TaskDataset
from mixalign.data.generated import generate
from mixalign.data.read.sources import KINDS, TaskRows, TaskSpec, discover_tasks
from mixalign.data.readings import load_kept
from mixalign.data.scorers import Scorer, built_in
from mixalign.data.tokens.tokenise import TokenCounts
from mixalign.errors import MixalignError, did_you_mean
from mixalign.final_rows import FinalRows
from mixalign.objectives.base import Objective
from mixalign.types import Form

__all__ = [
    "filled",
    "read_task",
    "refuse_kinds",
    "scorer_of",
    "target_specs",
    "task_specs",
    "warn_of_few",
    "warn_of_losses",
]

log = logging.getLogger(__name__)

READS: dict[Form, tuple[str, ...]] = {
    "preference": ("preference",),
    "supervised": ("supervised", "preference"),
    "unpaired": ("unpaired", "preference"),
    "mismatched": ("unpaired", "preference"),
}
"""Kinds of rows that give an objective's rows."""
OBJECTIVES: dict[str, Form] = {"dpo": "preference", "sft": "supervised", "kto": "mismatched"}
GENERATED = ("generator", "rows", "validation_rows", "test_rows")
SAME_ROWS = (
    "path",
    "validation",
    "test",
    "max_rows",
    "max_length",
    "objective",
    "on_bad_row",
    "on_overlap",
    "kind",
    "scorer",
    *GENERATED,
)
"""Fields of a task that leave its training rows what they are, or take a part of them; paths are compared resolved."""


def task_specs(data: DataSettings) -> dict[str, TaskSpec]:
    """The tasks of `data.root` and `data.tasks`; an entry of the latter refines or adds one, null removes it.

    Raises:
        MixalignError: when there is no task, two have the same rows, or a name cannot be that of a file.
    """
    specs: dict[str, TaskSpec] = dict(discover_tasks(data.root)) if data.root else {}
    for task, given in data.tasks.items():
        if given is None:
            specs.pop(task, None)
        else:
            specs[task] = _refined(specs[task], given) if task in specs else given
    for task in specs:
        if re.search(r"[/\\\x00-\x1f]|^\.|^$", str(task)):
            raise MixalignError(f"A task is called {task!r}, but names become files: no slash, and no dot in front.")
    if not specs:
        raise MixalignError(
            "There is no task. Set `data.root` to a folder of tasks, or name them one by one: "
            "`data.tasks.math.path=math.jsonl`."
        )
    _refuse_misspelt(specs)
    _refuse_twins(specs)
    return specs


def target_specs(data: DataSettings, tasks: list[str]) -> dict[str, TaskSpec | None]:
    """Where the rows of each target table are; None: in the validation split of the task of that name.

    Raises:
        MixalignError: for a name that is no task.
    """
    if isinstance(data.target, Mapping):
        return dict(data.target)
    names = data.target or tuple(tasks)
    for name in names:
        if name not in tasks:
            raise MixalignError(f"`data.target` names `{name}`, which is no task. {did_you_mean(str(name), tasks)}")
    return dict.fromkeys(names)


def refuse_kinds(specs: Mapping[str, TaskSpec], objective: Objective) -> None:
    """Refuses, before anything is read, tasks whose rows are said to be of a kind that the objective cannot learn from.

    Raises:
        MixalignError: naming them.
    """
    wanted = READS[objective.form]
    if wrong := {task: spec.kind for task, spec in specs.items() if spec.kind and spec.kind not in wanted}:
        held = "; ".join(
            f"{', '.join(f'`{task}`' for task in wrong if wrong[task] == kind)}: {KINDS[kind]}"
            for kind in dict.fromkeys(wrong.values())
        )
        able = [name for name, form in OBJECTIVES.items() if {*wrong.values()} <= {*READS[form]}]
        others = " or ".join(f"objective={name}" for name in able)
        raise MixalignError(
            f"objective={objective.name} learns from {' or '.join(KINDS[kind] for kind in wanted)}, and not from what "
            f"these tasks hold ({held}). Leave them out (data.tasks.{next(iter(wrong))}=null)"
            + (f", or train with {others}." if others else ".")
        )


def read_task(
    task: str, spec: TaskSpec, data: DataSettings, form: Form, chat: bool = False, cache: Path | None = None
) -> TaskRows:
    """The rows of each split of a task, read or generated.

    Args:
        form: of the rows that the objective learns from.
        chat: whether the tokenizer has a chat template.
        cache: keeps what was read; see `load_kept`.

    Raises:
        MixalignError: for rows that cannot be used.
    """
    if spec.generator is None:
        return load_kept(
            cache if data.cache_tokens else None,
            task,
            spec,
            validation_fraction=data.validation_fraction,
            seed=data.seed,
            on_bad_row=data.on_bad_row,
            chat=chat,
            kinds=READS[form],
        )
    sizes = {
        "train": spec.rows or 1000,
        "validation": spec.validation_rows or 250,
        "test": spec.test_rows or 250,
    }
    examples = {split: generate(spec.generator, rows, split, data.seed) for split, rows in sizes.items()}
    return TaskRows(examples)


def scorer_of(task: str, spec: TaskSpec) -> Scorer | None:
    """How generated answers of a task are scored; None where nothing says it.

    Raises:
        MixalignError: for a function that is not allowed, or not there.
    """
    if isinstance(spec.scorer, str) and spec.scorer != "exact":
        return allowed_function(f"data.tasks.{task}.scorer", spec.scorer)
    return built_in(spec)


def _refined(base: TaskSpec, over: TaskSpec) -> TaskSpec:
    default = TaskSpec()
    changed = {f.name: getattr(over, f.name) for f in fields(over) if getattr(over, f.name) != getattr(default, f.name)}
    return TaskSpec(**(asdict(base) | changed))


def _refuse_misspelt(specs: Mapping[str, TaskSpec]) -> None:
    """A setting of a task whose name is mistyped would be a task without rows."""
    read = [task for task, spec in specs.items() if spec.path is not None or spec.generator is not None]
    for task in specs:
        if task not in read and (near := did_you_mean(task, read)).startswith("Did"):
            raise MixalignError(
                f"task `{task}` has neither a path nor a generator, so no rows can be read. {near} Correct its name, "
                f"or set `data.tasks.{task}.path`."
            )


def _refuse_twins(specs: dict[str, TaskSpec]) -> None:
    """Two tasks with the same rows would count those rows twice."""
    seen: dict[tuple[str, ...], str] = {}
    for task, spec in specs.items():
        if spec.path is None:
            continue
        key = tuple(_plain(getattr(spec, f.name)) for f in fields(spec) if f.name not in SAME_ROWS)
        key = (str(Path(os.path.expanduser(spec.path)).resolve()), *key)
        if key in seen:
            raise MixalignError(
                f"Tasks `{seen[key]}` and `{task}` are duplicates: both read {spec.path}. Remove one, or give them "
                "different files, splits or columns."
            )
        seen[key] = task


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def warn_of_losses(counts: Sequence[tuple[str, TokenCounts]]) -> None:
    """Says what tokenisation dropped or cut, by task; silent when nothing was."""
    for split, c in counts:
        parts = [
            (c.dropped_long_prompt, "dropped: the prompt alone fills max_length"),
            (c.dropped_unsupervised, "dropped: no token to learn from"),
            (c.truncated, "truncated at max_length"),
            (c.prefix_mismatch, "with a prompt that the tokenizer merges into the answer"),
            (c.same, "with the same tokens in `chosen` and `rejected`, which teach nothing"),
        ]
        losses = [f"{n} {what}" for n, what in parts if n]
        if losses:
            log.warning("Task `%s` (%s): of %d rows, %s.", c.task, split, c.rows, "; ".join(losses))


def warn_of_few(specs: Mapping[str, TaskSpec], counts: Sequence[tuple[str, TokenCounts]]) -> None:
    """Says how many rows remain where `max_rows` chose some that tokenisation dropped."""
    for split, c in counts:
        wanted = specs[c.task].max_rows if split == "train" else None
        if wanted is not None and c.kept < c.rows:
            log.warning(
                "Task `%s`: of the rows that `max_rows: %d` chose, %d of %d are dropped as too long or without an "
                "answer, and %d are trained on. It chooses before that; raise it, or `max_length`.",
                c.task, wanted, c.rows - c.kept, c.rows, c.kept,
            )  # fmt: skip


def filled(made: Mapping[str, Mapping[str, TaskDataset]]) -> dict[str, list[TaskDataset]]:
    """One table a task and split; tasks without test rows are judged on their validation rows, which is said."""
    if test := made.get("test"):
        splits = {task: {"split": "test" if task in test else "validation"} for task in made["train"]}
        if caution := FinalRows.of([{"tasks": splits}]).caution:
            log.warning("%s", caution)
    validation = made["validation"]
    return {split: [tables.get(task, validation[task]) for task in made["train"]] for split, tables in made.items()}

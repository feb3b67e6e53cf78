"""Rows of a user's own, a task a file, as a model or its run reads them."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixalign.data.dataset import TaskDataset
from mixalign.data.read.discover import discover_tasks
from mixalign.data.read.files import KNOWN, stem, suffix_of
from mixalign.data.read.folders import is_saved, split_files
from mixalign.data.read.formats import example_kind
from mixalign.data.read.sources import KINDS, TaskSpec, load_rows
from mixalign.data.read.table import SPLITS, canonical
from mixalign.data.tokens.tokenise import TokenCounts, tokenise
from mixalign.errors import MixalignError
from mixalign.further.form import other_form
from mixalign.further.model import Opened
from mixalign.jobs.day import template_day
from mixalign.jobs.tasks import warn_of_losses
from mixalign.types import Form

__all__ = ["Table", "read_tables"]

log = logging.getLogger(__name__)
ORDER = ("test", "validation", "train")  # of the splits of a folder, the first that is there is measured
FORMS: dict[str, Form] = {"preference": "preference", "supervised": "supervised", "unpaired": "unpaired"}
LONGEST = 1024  # tokens of a row where no run says it
KEPT = ("columns", "where", "objective", "apply_chat_template", "chat_template_kwargs", "max_length", "on_bad_row")
"""Fields of a task of the run that hold for further rows of the same name."""


@dataclass(frozen=True)
class Table:
    """The rows of one task.

    Attributes:
        kind: preference, supervised or unpaired.
        source: the file or folder, and the split where it has several.
        objective: the run's settings of the objective for the task of this name.
    """

    task: str
    kind: str
    source: str
    rows: TaskDataset
    objective: Mapping[str, Any]


def read_tables(place: Path, opened: Opened, max_length: int | None = None, task: str | None = None) -> list[Table]:
    """Reads and tokenises a file or a folder of rows.

    A folder is a task for each of its files and sub-folders; one with files of splits is a single task. Of splits the
    test rows are read, else the validation rows, else the train rows. A task called as one of the run has its columns,
    objective, chat template and its variables; what was read in another form than the run's rows is told.

    Args:
        max_length: tokens of a row, at most; None: as the run has it, else 1,024.
        task: one of the run, as which all rows are read whatever their tasks are called.

    Raises:
        MixalignError: for rows that cannot be found or read, and a task that the run does not have.
    """
    settings, rendering = opened.settings, opened.rendering
    day = rendering.date if rendering else None
    if settings is not None:
        day = template_day(opened.tokenizer, settings.data.date, settings.cache_dir)
    if task is not None:
        if rendering is None:
            raise MixalignError(f"--task {task}: nothing is known of the tasks of {opened.what}. Leave it out.")
        rendering.check(task, opened.what)
    longest = max_length or (rendering.max_length if rendering else LONGEST)
    tables, counts = [], []
    for name, spec in _specs(place, rendering.specs if rendering else ()).items():
        table, count = _table(name, task or name, spec, opened, longest, day)
        tables.append(table)
        counts.append(("--data", count))
        if note := other_form(table.rows, task or name, opened, day):
            log.warning("%s", note)
    warn_of_losses(counts)
    return tables


def _table(
    task: str, like: str, spec: TaskSpec, opened: Opened, max_length: int, day: str | None
) -> tuple[Table, TokenCounts]:
    """The rows of one task, read as those of a task of the run where it has one that is called `like`."""
    known = opened.rendering.specs.get(like) if opened.rendering else None
    if known is not None:
        spec = replace(spec, **{name: getattr(known, name) for name in KEPT})
    bad = opened.rendering.on_bad_row if opened.rendering else "raise"
    chat = opened.tokenizer.chat_template is not None
    examples = load_rows(task, spec, on_bad_row=bad, chat=chat)
    kind, *others = sorted({example_kind(example) for example in examples}) or [""]
    if others or not kind:
        held = " and ".join(KINDS[name] for name in (kind, *others)) if kind else "no rows"
        raise MixalignError(f"--data: {spec.path} holds {held}. Give each kind of rows a file of its own.")
    rows, count = tokenise(
        examples,
        opened.tokenizer,
        task=task,
        form=FORMS[kind],
        max_length=spec.max_length or max_length,
        chat_template_kwargs=dict(spec.chat_template_kwargs),
        train_on=known.train_on if known and kind == "supervised" else "assistant",
        day=day,
        source="--data",
    )
    source = f"{spec.path} ({spec.split})" if spec.split != "train" else str(spec.path)
    return Table(task, kind, source, rows, dict(spec.objective)), count


def _specs(place: Path, known: Collection[str]) -> dict[str, TaskSpec]:
    """Where the rows of each task are; a file of a split in the folder of a known task is of that task."""
    if place.is_file():
        if not suffix_of(place.name):
            raise MixalignError(f"--data: {place} is no file of rows. Known: {KNOWN}.")
        name = stem(place.name)
        of_split = canonical(name) in SPLITS and name not in known and place.parent.name in known
        return {place.parent.name if of_split else name: TaskSpec(path=str(place))}
    if not place.is_dir():
        raise MixalignError(f"--data: there is no {place}. Give a file of rows, or a folder of them.")
    if spec := _of_splits(place):
        return {place.name: spec}
    entries = [entry for entry in sorted(place.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    found = {entry.name: spec for entry in entries if (spec := _of_splits(entry))}
    if any(entry.is_file() and suffix_of(entry.name) for entry in place.iterdir()) or not found:
        found = discover_tasks(place) | found
    return dict(sorted(found.items()))


def _of_splits(folder: Path) -> TaskSpec | None:
    """The rows of a folder with files of splits; None where it has none."""
    if is_saved(folder):
        return TaskSpec(path=str(folder))
    splits = split_files(folder, deep=False).splits
    chosen = next((split for split in ORDER if split in splits), None)
    return TaskSpec(path=str(folder), split=chosen) if chosen else None

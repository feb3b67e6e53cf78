"""Rows of a user's own, a task a file, as a model or its run reads them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixalign.data.dataset import TaskDataset
from mixalign.data.read.discover import discover_tasks
from mixalign.data.read.files import KNOWN, stem, suffix_of
from mixalign.data.read.folders import is_saved, split_files
from mixalign.data.read.formats import example_kind
from mixalign.data.read.sources import KINDS, TaskSpec, load_rows
from mixalign.data.tokens.tokenise import TokenCounts, tokenise
from mixalign.errors import MixalignError
from mixalign.further.model import Opened
from mixalign.jobs.day import template_day
from mixalign.jobs.tasks import warn_of_losses
from mixalign.types import Form

__all__ = ["Table", "read_tables"]

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


def read_tables(place: Path, opened: Opened, max_length: int | None = None) -> list[Table]:
    """Reads and tokenises a file or a folder of rows.

    A folder is a task for each of its files and sub-folders; one with files of splits is a single task. Of splits the
    test rows are read, else the validation rows, else the train rows. A task called as one of the run has its columns,
    objective and variables of the chat template.

    Args:
        max_length: tokens of a row, at most; None: as the run has it, else 1,024.

    Raises:
        MixalignError: for rows that cannot be found or read.
    """
    settings = opened.settings
    day = template_day(opened.tokenizer, settings.data.date, settings.cache_dir) if settings else None
    longest = max_length or (settings.data.max_length if settings else LONGEST)
    tables, counts = [], []
    for task, spec in _specs(place).items():
        table, count = _table(task, spec, opened, longest, day)
        tables.append(table)
        counts.append(("--data", count))
    warn_of_losses(counts)
    return tables


def _table(task: str, spec: TaskSpec, opened: Opened, max_length: int, day: str | None) -> tuple[Table, TokenCounts]:
    data = opened.settings.data if opened.settings else None
    known = data.tasks.get(task) if data else None
    if known is not None:
        spec = replace(spec, **{name: getattr(known, name) for name in KEPT})
    bad, chat = data.on_bad_row if data else "raise", opened.tokenizer.chat_template is not None
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


def _specs(place: Path) -> dict[str, TaskSpec]:
    """Where the rows of each task are."""
    if place.is_file():
        if not suffix_of(place.name):
            raise MixalignError(f"--data: {place} is no file of rows. Known: {KNOWN}.")
        return {stem(place.name): TaskSpec(path=str(place))}
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

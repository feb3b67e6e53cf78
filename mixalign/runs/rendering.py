"""How a run read the rows of each task, for whoever measures or asks its model: kept in exported folders as well."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mixalign.config.settings import RunSettings
from mixalign.data.read.sources import TaskSpec
from mixalign.errors import MixalignError, did_you_mean
from mixalign.files import read_json, write_json
from mixalign.jobs.tasks import task_specs
from mixalign.runs.folder import read_settings
from mixalign.runs.origin import conversations_of

__all__ = ["FILE", "Rendering", "keep_rendering", "kept_rendering", "rendering_of"]

FILE = "mixalign.json"
KEPT = ("columns", "where", "apply_chat_template", "chat_template_kwargs", "max_length", "on_bad_row", "train_on")
"""Fields of a task that say how other rows of it are read, and not where its own lie."""


@dataclass(frozen=True)
class Rendering:
    """How the rows of a run's tasks were read.

    Attributes:
        specs: task -> its description, of which the fields above count.
        chat: task -> whether its rows were conversations of the chat template; None where it was not kept.
        date: what the template took for today; None: no day of the configuration.
        max_length: tokens of a row.
        on_bad_row: of tasks that do not say it.
    """

    specs: Mapping[str, TaskSpec]
    chat: Mapping[str, bool] | None
    date: str | None
    max_length: int
    on_bad_row: str

    def check(self, task: str, what: str) -> None:
        """Refuses a task that there is not.

        Raises:
            MixalignError: with those that there are, or the closest.
        """
        if task not in self.specs:
            near = did_you_mean(task, self.specs)
            hint = f" {near}" if near.startswith("Did") else ""
            raise MixalignError(f"--task {task}: {what} has no such task. It has {', '.join(self.specs)}.{hint}")

    def choices(self) -> list[str]:
        """Tasks as which rows of plain text can be read: by the chat template, or as they stand."""
        chat = self.chat or {}
        return [task for task, spec in self.specs.items() if spec.apply_chat_template or not chat.get(task, True)]


def rendering_of(run: Path, settings: RunSettings) -> Rendering:
    """That of a run folder."""
    chat, data = conversations_of(run), settings.data
    specs = {task: spec for task, spec in data.tasks.items() if spec is not None}
    if chat is not None:
        specs = {task: specs.get(task) or TaskSpec() for task in chat}
    else:
        with suppress(MixalignError):  # the folder of tasks may be gone
            specs = task_specs(data)
    return Rendering(specs, chat, data.date, data.max_length, data.on_bad_row)


def keep_rendering(run: Path, folder: Path) -> None:
    """Writes that of a run into a folder with its model."""
    found, default = rendering_of(run, read_settings(run)), TaskSpec()
    known = found.chat or {}
    tasks: dict[str, Any] = {}
    for task, spec in found.specs.items():
        given = {name: getattr(spec, name) for name in KEPT if getattr(spec, name) != getattr(default, name)}
        tasks[task] = given | ({"chat": known[task]} if task in known else {})
    rest = {"date": found.date, "max_length": found.max_length, "on_bad_row": found.on_bad_row}
    write_json(folder / FILE, {"tasks": tasks, **rest})


def kept_rendering(folder: Path) -> Rendering | None:
    """That of a folder with a model; None where it has none.

    Raises:
        MixalignError: when the file is damaged.
    """
    if not (folder / FILE).is_file():
        return None
    found, specs = read_json(folder / FILE), {}
    chat: dict[str, bool] = {}
    names = {entry.name for entry in fields(TaskSpec)}
    try:
        for task, given in found["tasks"].items():
            specs[task] = TaskSpec.from_mapping(task, {key: value for key, value in given.items() if key in names})
            chat |= {task: bool(given["chat"])} if "chat" in given else {}
        date, longest, bad = found["date"], int(found["max_length"]), str(found["on_bad_row"])
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise MixalignError(f"{folder / FILE} is damaged ({error}). Export the run again, or delete it.") from error
    return Rendering(specs, chat if len(chat) == len(specs) else None, date, longest, bad)

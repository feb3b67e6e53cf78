"""What those who get a run's model want to know, and only its beginning knows: command, names on a hub, versions."""

import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mixalign import __version__
from mixalign.data.dataset import TaskDataset
from mixalign.data.tokens.chat import Chat
from mixalign.errors import MixalignError
from mixalign.files import read_json
from mixalign.jobs.job import Job
from mixalign.jobs.tasks import task_specs
from mixalign.models.gguf_origin import origin_of_folder

__all__ = ["IDENTITY", "begins_answer", "conversations_of", "opens_answer", "origin_of", "read_identity"]

IDENTITY = "identity.json"
LIBRARIES = ("torch", "lightning", "transformers", "peft", "datasets", "tokenizers")
ON_A_HUB = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def read_identity(run: Path) -> dict[str, Any]:
    """`identity.json` of a run; empty where there is none.

    Raises:
        MixalignError: when it is damaged.
    """
    if not (run / IDENTITY).is_file():
        return {}
    found = read_json(run / IDENTITY)
    if missing := sorted({"rows", "base", "chat_template", "versions"} - {*found}):
        raise MixalignError(f"{run / IDENTITY} is damaged: it has no `{missing[0]}`. Restore it from a copy.")
    return found


def origin_of(job: Job, overrides: Sequence[str], start: str = "") -> dict[str, Any]:
    """The entry `origin` of `identity.json`.

    Args:
        overrides: configuration keys of the command.
        start: identity of the reference policy, from which training begins.

    Returns:
        `overrides`; `start`; `chat`, by task, whether its rows are conversations; `base_model`, its id on a hub, or
        null; of a model out of a GGUF file `base_file`, its name, and `base_license`;
        `data_sets`, those of the tasks that came from a hub;
        `versions` of the libraries, as far as they are installed.
    """
    versions = {"mixalign": __version__}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    specs = task_specs(job.settings.data)
    data_sets = {task: name for task in job.tasks if (name := _on_a_hub(specs[task].path))}
    path = getattr(job.settings.model, "path", None)
    of_file = origin_of_folder(path, job.settings.plain["model"].get("package")) if path else {}
    base_model = of_file.get("base_model") or _on_a_hub(path)
    known = {"base_model": base_model, "data_sets": data_sets, "versions": versions}
    if of_file:
        known |= {"base_file": of_file["file"], "base_license": of_file.get("license")}
    return {
        "overrides": [*overrides],
        "start": start,
        "chat": {task: _is_chat(job, task) for task in job.tasks},
    } | known


def _is_chat(job: Job, task: str) -> bool:
    """Whether the first row of a task is a conversation: it has what opens an answer of the chat template."""
    if job.tokenizer.chat_template is None:
        return False
    with suppress(MixalignError):  # a template that wants more than a user's turn
        return opens_answer(job, job.data["train"][job.tasks.index(task)])
    return True


def conversations_of(run: Path) -> dict[str, bool] | None:
    """Of a run: task -> whether its rows are conversations; None where an older version did not keep it."""
    identity = read_identity(run)
    chat = (identity.get("origin") or {}).get("chat")
    return dict.fromkeys(identity["rows"], chat) if isinstance(chat, bool) else chat  # bool: an older version


def opens_answer(job: Job, table: TaskDataset) -> bool:
    """Whether the first row of a table has what opens an answer of the chat template, whoever wrote it there.

    Raises:
        MixalignError: for a template that wants more than a user's turn.
    """
    return begins_answer(job.tokenizer, job.day, table)


def begins_answer(tokenizer: Any, day: str | None, table: TaskDataset) -> bool:
    """The same by a tokenizer, and what its template takes for today."""
    opening = Chat(tokenizer, "origin", {}, day).opening.strip()
    return bool(opening and len(table)) and opening in tokenizer.decode(table.ids_T[: int(table.start_N[1])])


def _on_a_hub(path: Any) -> str | None:
    """The path, if it is the name of a repository: it was read, and is no file or folder here."""
    text = str(path or "")
    return text if ON_A_HUB.fullmatch(text) and not Path(text).exists() else None

"""What a run was begun with beside its settings: the rows of every task as the model reads them, and its first weights.

Paths are not part of it: a run, its files and its model may be moved.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from mixalign.data.batches.module import check_same_tasks
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.files import write_json
from mixalign.fingerprint import fingerprint
from mixalign.jobs.job import Job, rows_fingerprint
from mixalign.runs.origin import IDENTITY, origin_of, read_identity
from mixalign.together.agree import decide
from mixalign.training.checkpoints import checkpoint_name, checkpoint_step

__all__ = [
    "begun_from",
    "begun_specialists",
    "begun_tasks",
    "check_identity",
    "check_measured",
    "check_resumed",
    "started_in",
    "write_identity",
    "write_specialists",
]

SPECIALISTS = "specialists"
SHOWN = 4  # tables that a message names
Rows = Mapping[str, Mapping[str, Any]]
"""Task -> split -> `rows`, `tokens` (numbers), and `fingerprint`, which changes with any token, mask, label, weight."""

log = logging.getLogger(__name__)


def write_identity(
    folder: Path, job: Job, resume: Path | None = None, overrides: Sequence[str] = (), start: str = ""
) -> None:
    """Writes `identity.json`: the tasks in their order, each split's rows, and the fingerprint of the base model.

    Args:
        job: as `reference_policy` gives it back, with the fingerprint of its base model.
        resume: the checkpoint of another run that this one begins from; None leaves what is known of that.
        overrides: configuration keys of the command.
        start: identity of the reference policy.
    """
    before = read_identity(folder)
    kept = {key: value for key, value in before.items() if key == SPECIALISTS}
    begun = begun_from(folder)
    if resume is not None:
        path, step = str(resume.resolve()), checkpoint_step(resume)
        begun = {"path": path, "step": step, "name": checkpoint_name(resume)}
    more = {"begun_from": begun} if begun else {}
    origin = origin_of(job, overrides, start)
    known = before.get("origin", {})
    if sorted(known.get("overrides", [])) == sorted(overrides):
        origin["overrides"] = known.get("overrides", [])  # the same command, be it in another order
    write_json(folder / IDENTITY, _identity(job) | more | {"origin": origin} | kept)


def begun_specialists(folder: Path) -> bool | None:
    """On all processes, whether a run began with specialists' losses; None for one that did not get as far."""
    found: bool | None = decide(lambda: read_identity(folder).get(SPECIALISTS))
    return found


def write_specialists(folder: Path, has: bool) -> None:
    """Keeps whether a run began with specialists' losses, and so by what it chooses its best checkpoint."""
    write_json(folder / IDENTITY, read_identity(folder) | {SPECIALISTS: has})


def begun_from(folder: Path) -> dict[str, Any]:
    """The checkpoint of another run that a run was begun from: `path`, `step` and `name`; empty for most runs."""
    known = (folder / "config.yaml").is_file()  # else its run never began
    return dict(read_identity(folder).get("begun_from") or {}) if known else {}


def begun_tasks(folder: Path, resume: Path | None = None) -> list[str]:
    """On all processes, the tasks of a run in the order in which it began; none for a folder without a run.

    Args:
        resume: the checkpoint of another run that a new one goes on from, whose order it takes.
    """

    return decide(partial(_tasks_then, folder, resume))


def _tasks_then(folder: Path, resume: Path | None = None) -> list[str]:
    places = [folder] if resume is None else [folder, resume.resolve().parent.parent]
    for found in filter(None, map(read_identity, places)):
        with_rows = [task for task, splits in found["rows"].items() if "train" in splits]
        return found.get("tasks", with_rows)  # type: ignore[no-any-return]
    return []


def started_in(folder: Path) -> Path | None:
    """The working folder of the command that began a run, from which relative paths of its configuration are read."""
    found = read_identity(folder).get("started_in")
    return Path(str(found)) if found else None


def check_identity(folder: Path, job: Job) -> None:
    """Makes sure, on all processes, that a run goes on with the rows, the task order and the base model of its start.

    Folders without an `identity.json`, of older versions, are taken as they are. The base model is compared where the
    job knows its fingerprint already.

    Raises:
        MixalignError: naming the tasks and splits whose rows are others, or the base model.
    """
    if problem := decide(partial(_reordered, folder, job)) or decide(partial(_difference, folder, job)):
        raise MixalignError(f"{problem}, or give another `run_dir`.")


def check_measured(folder: Path, job: Job) -> None:
    """The same for a run whose models are measured again, which asks for no order of tasks.

    Raises:
        MixalignError: naming the tasks and splits whose rows are others, or the base model.
    """
    if problem := decide(partial(_difference, folder, job)):
        raise MixalignError(
            f"{problem}, or delete {folder / IDENTITY} to have the model measured with what is there now."
        )


def check_resumed(checkpoint: Path, job: Job) -> None:
    """The same for a checkpoint that a run is told to go on from: of another base model it is refused.

    Rows may be others on purpose, as may be all that the run does not train; a warning names them.

    Raises:
        MixalignError: when the checkpoint's run began with another base model, or has other tasks.
    """
    folder = checkpoint.resolve().parent.parent
    then, now = decide(partial(read_identity, folder)), _identity(job)
    if not then:
        return
    check_same_tasks(then.get("tasks"), job.tasks)
    if problem := _other_base(then, now, job):
        raise MixalignError(f"`resume={checkpoint}` cannot go on: {problem}, or leave `resume` out.")
    changed = _changed_tables(then["rows"], now["rows"])
    if changed and not job.start:  # said once, before the model is read
        log.warning("`resume=%s` goes on, though %s.", checkpoint, _named(changed))


def _reordered(folder: Path, job: Job) -> str:
    """That the tasks have another order than then: all that a checkpoint knows of them is by number."""
    then, now = _tasks_then(folder), job.tasks
    if sorted(then) != sorted(now) or then == now or not (folder / "config.yaml").is_file():
        return ""
    return (
        f"The tasks have another order than when the run in {folder} began: {', '.join(now)}; then they were "
        f"{', '.join(then)}. Put them in that order"
    )


def _difference(folder: Path, job: Job) -> str:
    """What is other than when the run began, and how it is restored; empty when nothing is."""
    then, now = read_identity(folder), _identity(job)
    if not then or not (folder / "config.yaml").is_file():
        return ""
    if changed := _changed_tables(then["rows"], now["rows"]):
        return f"The run in {folder} cannot go on or be measured: {_named(changed)}. {_why(then, now)}Restore the rows"
    return _other_base(then, now, job)


def _other_base(then: Mapping[str, Any], now: Mapping[str, Any], job: Job) -> str:
    if not job.start or then["base"] == job.start:
        return ""
    source = job.settings.plain["model"]
    name = f"`model.path={source['path']}`" if "path" in source else "the base model"
    return (
        f"The weights or the configuration of {name} are others than when the run began (fingerprint {then['base']} "
        f"then, {job.start} now). {_other_versions(then, now)}Restore the model"
    )


def _identity(job: Job) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {task: {} for task in job.tasks}
    for number, split, table in job.all_datasets:
        rows[job.tasks[number]][split] = _of(table)
    for table in job.targets:
        if not any(table is other for other in job.data["validation"]):
            rows.setdefault(table.task, {})["target"] = _of(table)
    template = fingerprint({"chat_template": getattr(job.tokenizer, "chat_template", None)})
    return {
        "tasks": job.tasks,
        "rows": rows,
        "base": job.start,
        "chat_template": template,
        "versions": _versions(),
        "started_in": os.getcwd(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in ("mixalign", "transformers", "tokenizers"):
        with suppress(PackageNotFoundError):  # mixalign, where it runs from a folder
            found[name] = version(name)
    return found


def _of(table: TaskDataset) -> dict[str, Any]:
    tokens = int(table.length_NS.sum(dtype=np.int64))
    return {"rows": len(table), "tokens": tokens, "fingerprint": rows_fingerprint([table])}


def _changed_tables(then: Rows, now: Rows) -> list[str]:
    """A clause on each split of a task whose rows are not those of before."""
    out = []
    for task in dict.fromkeys([*then, *now]):
        if task not in then or task not in now:
            out.append(f"task `{task}` is {'new' if task in now else 'gone'}")
            continue
        for split in dict.fromkeys([*then[task], *now[task]]):
            before, after = then[task].get(split), now[task].get(split)
            if before is None or after is None:
                out.append(f"task `{task}` ({split}) is {'new' if before is None else 'gone'}")
            elif before["fingerprint"] != after["fingerprint"]:
                sizes = "" if before["rows"] == after["rows"] else f" ({before['rows']} then, {after['rows']} now)"
                out.append(f"task `{task}` ({split}) has other rows than when this run began{sizes}")
    return out


def _named(changed: list[str]) -> str:
    more = f"; and {len(changed) - SHOWN} tables more" if len(changed) > SHOWN else ""
    return "; ".join(changed[:SHOWN]) + more


def _why(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if then["chat_template"] != now["chat_template"]:
        return "The tokenizer's chat template is another one. "
    return _other_versions(then, now)


def _other_versions(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The libraries that are others than then, which may read the same files in another way."""
    shared = [
        name for name in now["versions"] if then["versions"].get(name, now["versions"][name]) != now["versions"][name]
    ]
    others = [f"{name} {then['versions'][name]} then, {now['versions'][name]} now" for name in shared]
    return f"Versions: {'; '.join(others)}. " if others else ""

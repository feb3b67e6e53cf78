"""Finds the tasks of a folder."""

import logging
import os
from glob import escape
from pathlib import Path

from mixalign.data.read.files import KNOWN, SHARD, check_shards, nearest, stem, suffix_of
from mixalign.data.read.folders import CARDS, is_saved, split_files
from mixalign.data.read.spec import TaskSpec
from mixalign.errors import MixalignError

__all__ = ["discover_tasks"]

log = logging.getLogger(__name__)


def discover_tasks(root: str | Path) -> dict[str, TaskSpec]:
    """One task for each folder with train rows, each file of rows and each set of shards, by name.

    What is no task is named in one warning, but hidden files and the cards of data sets.

    Raises:
        MixalignError: when the folder is missing, is itself a task, holds no task, names a task twice, or holds a file
            of a split, such as val.jsonl, that could belong to any task.
    """
    root = Path(os.path.expanduser(root))
    if not root.is_dir():
        raise MixalignError(
            f"the folder of tasks {root} does not exist.{nearest(root)} Set `data.root` to one that does."
        )
    _refuse_splits(root)
    found: dict[str, Path] = {}
    skipped: list[str] = []
    shards: list[str] = []
    for entry in sorted(root.iterdir()):
        if entry.name.startswith(".") or entry.name in CARDS:
            continue
        name, path, why = _task(entry)
        if why:
            skipped.append(why)
        elif found.get(name, path) != path:
            raise MixalignError(f"task `{name}` is there twice: {found[name]} and {path}. Rename or remove one.")
        else:
            found[name] = path
            shards += [entry.name] if path != entry else []
    check_shards(str(root), shards)
    if not found:
        there = f" It holds {'; '.join(skipped[:10])}." if skipped else ""
        raise MixalignError(
            f"{root} holds no task: it wants folders with a train file, or files of rows ({KNOWN}).{there}"
        )
    if (
        [*found] == ["data"]
        and found["data"].is_dir()
        and any(SHARD.fullmatch(stem(f.name)) for f in found["data"].iterdir())
    ):
        raise MixalignError(
            f"{root} holds train files in data/: it is one task. Point to the folder above it: {root.parent}."
        )
    if skipped:
        log.warning("`data.root`: in %s these are no tasks, and not read: %s.", root, "; ".join(skipped))
    return {name: TaskSpec(path=str(found[name])) for name in sorted(found)}


def _refuse_splits(root: Path) -> None:
    """Refuses a folder that has files of splits itself: they belong to one task."""
    splits = split_files(root, deep=False).splits
    if "train" in splits:
        raise MixalignError(f"{root} holds a train file: it is one task. Point to the folder above it: {root.parent}.")
    for split in ("validation", "test"):
        if split in splits:
            name = splits[split][0].name
            raise MixalignError(
                f"{root} holds {name}, which is called like {split} rows, and nothing says of which task. Move it to "
                f"the folder of its task, or to another folder and set `data.tasks.<task>.{split}` to it; "
                "if it is a task, give it another name."
            )


def _task(entry: Path) -> tuple[str, Path, str]:
    """The name of a task, where it lies, and why it is none if it is none."""
    if entry.is_file() and suffix_of(entry.name):
        if shard := SHARD.fullmatch(stem(entry.name)):
            pattern = f"{escape(str(entry.parent / shard['name']))}-*-of-{shard['count']}*{suffix_of(entry.name)}"
            return shard["name"], Path(pattern), ""
        return stem(entry.name), entry, ""
    if not entry.is_dir():
        return "", entry, entry.name
    splits = [] if is_saved(entry) else [*split_files(entry).splits]
    if is_saved(entry) or "train" in splits:
        return entry.name, entry, ""
    return "", entry, f"{entry.name}/ (only {', '.join(splits)} rows)" if splits else f"{entry.name}/ (no train file)"

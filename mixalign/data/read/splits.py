"""Which rows train, validate and test: the splits that a task names, and no row on two sides by name."""

import os
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from mixalign.data.read.files import is_files, is_remote, local_files, read_files
from mixalign.data.read.folders import SplitFiles, is_saved, split_files
from mixalign.data.read.source import read_source
from mixalign.data.read.spec import TaskSpec
from mixalign.data.read.table import Table, Tables, own_split, select
from mixalign.errors import MixalignError

__all__ = ["files_of", "read_splits"]

HUB = ("name", "data_dir", "data_files", "revision")


def read_splits(spec: TaskSpec, *, skip_bad: bool = False) -> dict[str, Tables]:
    """The rows of `train`, and of `validation` and `test` where the task or its source has them.

    Args:
        skip_bad: whether lines that cannot be parsed are left out, and kept as the tables' `bad` rows.

    Raises:
        MixalignError: when a split is not there, cannot be read, or holds rows that are trained on by their line.
    """
    arguments = {name: value for name in HUB if (value := getattr(spec, name)) is not None}
    source = read_source(str(spec.path), arguments, skip_bad=skip_bad)
    parts = {"train": select(source, spec.split)}
    for split, given in (("validation", spec.validation), ("test", spec.test)):
        if given is not None:
            parts[split] = _given(source, given, skip_bad)
            _refuse_overlap(parts["train"], parts[split], spec, f"{split}: {given}")
        elif (own := _untrained(source, spec)) and (found := own_split(own, split)) is not None:
            parts[split] = found
    return parts


def _given(source: Mapping[str, Tables], given: str, skip_bad: bool) -> Tables:
    return read_files(given, skip_bad=skip_bad) if is_files(given) else select(source, given)


def _untrained(source: Mapping[str, Tables], spec: TaskSpec) -> dict[str, Tables]:
    """The splits of a source of which nothing is trained on."""
    used = [select(source, part.split("[")[0].strip()) for part in spec.split.split("+")]
    return {name: tables for name, tables in source.items() if all(tables is not other for other in used)}


def _refuse_overlap(train: Tables, other: Tables, spec: TaskSpec, given: str) -> None:
    for one, two in product(train, other):
        if one.place == two.place and (shared := _shared(one, two)):
            first, last = shared
            raise MixalignError(
                f"`{given}` overlaps what is trained on, `split: {spec.split}`: both read {one.place} {first} to "
                f"{last}. Choose rows that do not overlap, such as `split: train[:90%]` and "
                f"`{given.split(':')[0]}: train[90%:]`."
            )


def _shared(one: Table, two: Table) -> tuple[int, int] | None:
    """First and last of the numbers that are in both; each has all rows of a table between its first and its last."""
    if not len(one.numbers) or not len(two.numbers):
        return None
    first, last = max(one.numbers[0], two.numbers[0]), min(one.numbers[-1], two.numbers[-1])
    return (first, last) if first <= last else None


def files_of(spec: TaskSpec) -> tuple[list[str], list[str]] | None:
    """The files that `read_splits` reads, and those beside them of which it only says that they are not read.

    Returns:
        None where the rows are no files here: on a hub, at an address, or as `save_to_disk` made them.
    """
    given = [text for text in (spec.validation, spec.test) if text is not None and is_files(text)]
    if spec.path is None or any(map(is_remote, [spec.path, *given])) or any(getattr(spec, name) for name in HUB):
        return None
    folder = Path(os.path.expanduser(spec.path))
    try:
        found = split_files(folder) if folder.is_dir() and not is_saved(folder) else SplitFiles()
    except MixalignError:  # reading says what is wrong
        return None
    own = [str(file) for files in found.splits.values() for file in files]
    parts = [own if folder.is_dir() else local_files(spec.path), *map(local_files, given)]
    return ([name for names in parts for name in names], [*map(str, found.unread)]) if all(parts) else None

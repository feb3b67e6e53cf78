"""What the files of a task hold, kept in a cache by their content: no file is parsed twice by the same code."""

import hashlib
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mixalign.data.read.columns import ColumnUse
from mixalign.data.read.mixed import Sort, Sorts
from mixalign.data.read.overlap import RowsReport
from mixalign.data.read.sources import Look, TaskRows, TaskSpec, load_task
from mixalign.data.read.splits import files_of
from mixalign.data.tokens.cache import SMALL, HashedRows, rows_recipe
from mixalign.errors import MixalignError
from mixalign.known import content_hash, keep, recall
from mixalign.output import heard
from mixalign.types import Example

__all__ = ["load_kept"]

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("datasets", "numpy", "pyarrow")  # that read, beside Python's own


def load_kept(cache: Path | None, task: str, spec: TaskSpec, **how: Any) -> TaskRows:
    """What `load_task` gives, with its warnings, from the cache if the same files were read before.

    `TaskRows.keep` keeps tasks of at least 1,000 rows: of their larger splits the hash, by which their tokens are
    kept, and the rows of the others.

    Args:
        cache: None keeps nothing.
        how: see `load_task`.

    Raises:
        MixalignError: see `load_task`. Nothing is kept then.
    """
    read = partial(load_task, task, spec, **how)
    recipe = None if cache is None else _recipe(task, spec, how)
    if cache is None or recipe is None:
        return read()
    if found := recall(cache, recipe):
        for name, level, text in found["said"]:
            logging.getLogger(name).log(level, "%s", text)
        return _as_read(found, read)
    with heard("mixalign") as records:
        rows = read()
    if sum(map(len, rows.values())) >= SMALL and _all_is_heard() and _recipe(task, spec, how) == recipe:
        found = {split: _hashed(examples) for split, examples in rows.items()}
        splits = {split: _plain(examples) for split, examples in found.items()}
        said = [[record.name, record.levelno, record.getMessage()] for record in records]
        content = {"splits": splits, "look": _plain_look(rows.look), "said": said}
        return TaskRows(found, rows.look, partial(keep, cache, recipe, content))
    return rows


def _recipe(task: str, spec: TaskSpec, how: Mapping[str, Any]) -> dict[str, Any] | None:
    """All that decides what is read; None where that is more than files here."""
    if (found := files_of(spec)) is None:
        return None
    files, others = found
    try:
        contents = {name: content_hash(Path(name)) for name in files}
    except OSError:  # reading says what is wrong
        return None
    return {
        "what": "reading",
        "code": CODE,
        "python": sys.version,
        "libraries": _versions(),
        "task": task,
        "spec": repr(asdict(spec)),
        "how": repr(sorted(how.items())),
        "files": contents,
        "others": others,
    }


def code_files() -> list[Path]:
    """The code that reads: the folder `data`, and what is free for all."""
    return sorted([*PACKAGE.glob("*.py"), *(PACKAGE / "data").rglob("*.py")])


def _code() -> str:
    digest = hashlib.sha256()
    for file in code_files():
        digest.update(f"{file.relative_to(PACKAGE)}:".encode() + file.read_bytes())
    return digest.hexdigest()


CODE = _code()  # now, as the files may change while this process runs


@cache
def _versions() -> list[str]:
    return [version(name) for name in LIBRARIES]


def _all_is_heard() -> bool:
    """Whether every warning gets to `heard`: one that is switched off now is wanted by the next command perhaps."""
    ours = [logging.getLogger(name) for name in [*logging.root.manager.loggerDict] if name.startswith("mixalign")]
    return all(one.isEnabledFor(logging.WARNING) and (one.propagate or one.name == "mixalign") for one in ours)


def _hashed(examples: Sequence[Example]) -> Sequence[Example]:
    """The rows, with their hash where they are many."""
    if len(examples) < SMALL:
        return examples
    return HashedRows(len(examples), rows_recipe(examples), lambda: examples)


def _plain(examples: Sequence[Example]) -> Any:
    if isinstance(examples, HashedRows):
        return {"number": len(examples), "recipe": examples.recipe}
    return [*examples]


def _as_read(found: Mapping[str, Any], read: partial[TaskRows]) -> TaskRows:
    again = _Again(read)
    return TaskRows({split: again.rows(split, part) for split, part in found["splits"].items()}, _look(found["look"]))


class _Again:
    """Reads a task whose rows are asked for after all, as their tokens are not in the cache."""

    def __init__(self, read: partial[TaskRows]) -> None:
        self._read = read
        self._found: TaskRows | None = None

    def rows(self, split: str, part: Any) -> Sequence[Example]:
        """Those of a split, by what an entry has of it."""
        if isinstance(part, list):
            return part
        return HashedRows(part["number"], part["recipe"], partial(self._split, split, part["recipe"]))

    def _split(self, split: str, recipe: str) -> Sequence[Example]:
        if self._found is None:
            before = logging.root.manager.disable
            logging.disable(max(before, logging.WARNING))  # it has been said
            try:
                self._found = self._read()
            finally:
                logging.disable(before)
        examples = self._found.pop(split, [])  # a file of it may be gone
        if rows_recipe(examples) != recipe:
            raise MixalignError(f"{self._read.args[1].path} changed while it was read. Start the same command again.")
        return examples


def _plain_look(look: Look) -> dict[str, Any]:
    return {
        "columns": {name: [*names] for name, names in asdict(look.columns).items()},
        "reports": {split: asdict(report) for split, report in look.reports.items()},
        "sorts": [[[*s.columns], s.form, count, look.sorts.first[s]] for s, count in look.sorts.count.items()],
        "cut": look.cut,
        "source_rows": look.source_rows,
    }


def _look(plain: Mapping[str, Any]) -> Look:
    sorts = Sorts()
    for columns, form, count, first in plain["sorts"]:
        sort = Sort(tuple(columns), form)
        sorts.count[sort], sorts.first[sort] = count, first
    return Look(
        ColumnUse(**{name: tuple(names) for name, names in plain["columns"].items()}),
        {split: RowsReport(**report) for split, report in plain["reports"].items()},
        sorts,
        plain["cut"],
        plain["source_rows"],
    )

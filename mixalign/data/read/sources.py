"""A task's description, and its rows read and split: nothing here knows a tokenizer."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mixalign.checks import check_number, check_text
from mixalign.data.read.columns import ColumnUse, Tally
from mixalign.data.read.examples import about, column_use, read_examples
from mixalign.data.read.files import SUFFIXES, Table, read_file, read_source, select, split_file, stem
from mixalign.data.read.formats import COLUMNS, example_kind, prompt_key
from mixalign.errors import MixalignError, did_you_mean
from mixalign.types import Example

__all__ = ["TaskRows", "TaskSpec", "discover_tasks", "load_rows", "load_task"]

POSITIVE = ("max_rows", "max_length", "rows", "validation_rows", "test_rows")
MAPPINGS = ("columns", "objective", "chat_template_kwargs")
KINDS = {"preference": "preference rows", "supervised": "rows with a single answer", "unpaired": "rows with a label"}
HUB = ("name", "data_dir", "data_files", "revision")


@dataclass(frozen=True)
class TaskSpec:
    """What the configuration says about one task, under `data.tasks.<name>`."""

    # a .jsonl[.gz], .json[.gz], .parquet or .csv file; a folder with {train,validation|valid|dev,test} files;
    # a folder made by save_to_disk; a builder of datasets (json, parquet, csv) with data_files; a hub id
    path: str | None = None
    name: str | None = None  # load_dataset's configuration of a hub data set
    data_dir: str | None = None  # load_dataset's folder inside a data set
    data_files: Any = None  # load_dataset's files: one, a list, or split to files
    revision: str | None = None  # load_dataset's commit, branch or tag on the hub
    split: str = "train"  # what is trained on; slices such as "train[:5%]" are allowed
    validation: str | None = None  # a file or a split; default: the source's own, else cut from the train rows
    test: str | None = None  # a file or a split; default: the source's own, else none
    # our column name to theirs, {prompt: question}; or a column of theirs to null: declared unused, {images: null}
    columns: Mapping[str, str | None] = field(default_factory=dict)
    max_rows: int | None = None  # of the training split: a seeded uniform subset, whatever the order of the rows
    max_length: int | None = None  # tokens of prompt and completion; default: that of all tasks
    objective: Mapping[str, Any] = field(default_factory=dict)  # this task's settings of it: beta, loss, ...
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # variables of the chat template
    generator: str | None = None  # name of a generated task, in place of a path
    rows: int | None = None  # training rows to generate
    validation_rows: int | None = None  # validation rows to generate
    test_rows: int | None = None  # test rows to generate

    @classmethod
    def from_mapping(cls, task_name: str, mapping: Mapping[str, Any]) -> "TaskSpec":
        """Reads one entry of `data.tasks`; keys that are null take their default.

        Raises:
            MixalignError: for an unknown key, or a value of the wrong type or size; it names the key.
        """
        key = f"data.tasks.{task_name}"
        if not isinstance(mapping, Mapping):
            raise MixalignError(f"`{key}` is {mapping!r}, but must be a mapping such as {{path: {task_name}.jsonl}}.")
        known = {entry.name for entry in fields(cls)}
        for name, value in mapping.items():
            if name not in known:
                raise MixalignError(f"`{key}.{name}` is not a setting of a task. {did_you_mean(str(name), known)}")
            if value is not None:
                _check(f"{key}.{name}", name, value)
        spec = cls(**{name: value for name, value in mapping.items() if value is not None})
        _check_together(key, spec)
        return spec


def _check(key: str, name: str, value: Any) -> None:
    """Refuses a value of the wrong type or size."""
    if name in POSITIVE:
        check_number(key, value, 1, whole=True)
    elif name in MAPPINGS or name == "data_files":
        kinds = (Mapping,) if name in MAPPINGS else (str, Sequence, Mapping)
        if not isinstance(value, kinds):
            wanted = "a mapping" if name in MAPPINGS else "a file, a list of files, or split to files"
            raise MixalignError(f"`{key}` is {value!r}, but must be {wanted}.")
    else:
        check_text(key, value)
    if name == "columns":
        _check_columns(key, value)
    if name == "objective":
        for entry, setting in value.items():
            kind, wanted = (str, "a word") if entry == "loss" else (int | float, "a number, or true or false")
            if not isinstance(setting, kind):
                raise MixalignError(f"`{key}.{entry}` is {setting!r}, but must be {wanted}.")


def _check_columns(key: str, columns: Mapping[Any, Any]) -> None:
    for ours, theirs in columns.items():
        if theirs is None:
            check_text(f"{key}: a column that is declared unused", ours)
            continue
        if ours not in COLUMNS:
            raise MixalignError(
                f"`{key}.{ours}` is not a column that we read: the left side is our name, the right side "
                f"yours. {did_you_mean(str(ours), COLUMNS)}"
            )
        if not isinstance(theirs, str):
            raise MixalignError(f"`{key}.{ours}` is {theirs!r}, but must be the name of a column.")
        if columns.get(theirs, ours) is None:
            raise MixalignError(f"`{key}` reads `{theirs}` as `{ours}`, and declares it unused. Keep one of the two.")


def _check_together(key: str, spec: TaskSpec) -> None:
    """Refuses settings that would have no effect."""
    if spec.path is not None and spec.generator is not None:
        raise MixalignError(f"`{key}` has both a path and a generator. Keep one of them.")
    if spec.generator is None and (idle := [n for n in POSITIVE[2:] if getattr(spec, n) is not None]):
        raise MixalignError(f"`{key}.{idle[0]}` is for generated tasks only. For a path, set `{key}.max_rows`.")


def discover_tasks(root: str | Path) -> dict[str, TaskSpec]:
    """One task for each sub-folder with a train file and each .jsonl, .jsonl.gz or .parquet file, by name.

    Raises:
        MixalignError: when the folder is missing, is itself a task, holds no task, or names a task twice.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise MixalignError(f"the folder of tasks {root} does not exist. Set `data.root` to one that does.")
    if split_file(root, "train"):
        raise MixalignError(f"{root} holds a train file: it is one task. Point to the folder above it: {root.parent}.")
    found: dict[str, Path] = {}
    for entry in sorted(root.iterdir()):
        if entry.name.startswith(".") or not _is_task(entry):
            continue
        name = entry.name if entry.is_dir() else stem(entry.name)
        if name in found:
            raise MixalignError(f"task `{name}` is there twice: {found[name]} and {entry}. Rename or remove one.")
        found[name] = entry
    if not found:
        raise MixalignError(f"{root} holds no task: it wants folders with a train file, or .jsonl or .parquet files.")
    return {name: TaskSpec(path=str(found[name])) for name in sorted(found)}


def _is_task(entry: Path) -> bool:
    if entry.is_file():
        return entry.name.endswith((".jsonl", ".jsonl.gz", ".parquet"))
    saved = any((entry / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))
    return entry.is_dir() and (saved or split_file(entry, "train") is not None)


class TaskRows(dict[str, list[Example]]):
    """The rows of a task: split to examples, and what its columns are used for."""

    def __init__(self, examples: Mapping[str, list[Example]], columns: ColumnUse) -> None:
        super().__init__(examples)
        self.columns = columns


def load_task(
    task: str, spec: TaskSpec, *, validation_fraction: float = 0.1, seed: int = 0, chat: bool = False
) -> TaskRows:
    """Reads the rows of a task.

    Args:
        task: name of the task, for messages.
        spec: where the rows lie.
        validation_fraction: share of the distinct prompts that validate, when the source has no validation
            rows; all rows of a prompt stay on one side.
        seed: of that cut and of the subset of `max_rows`. Neither depends on the order of the rows.
        chat: whether the tokenizer has a chat template; see `to_example`.

    Returns:
        `train` and `validation`, and `test` when there is one. One warning names the columns that no row uses.

    Raises:
        MixalignError: when rows cannot be found, read or recognised, or a split is empty.
    """
    if spec.path is None:
        what = f"is generated by `{spec.generator}`" if spec.generator else "has neither a path nor a generator"
        raise MixalignError(f"task `{task}` {what}, so no rows can be read. Set `data.tasks.{task}.path`.")
    with about(task):
        tables = _splits(spec)
    tally = Tally(spec.columns)
    examples = {split: read_examples(task, part, tally, chat) for split, part in tables.items()}
    _refuse_mixed(task, examples)
    use = column_use(task, tally, [row for part in examples.values() for row in part])
    if "validation" not in examples:
        train, validation = _cut(task, examples["train"], validation_fraction, seed)
        examples = {**examples, "train": train, "validation": validation}
    examples["train"] = _subset(examples["train"], spec.max_rows, seed)
    return TaskRows(examples, use)


def load_rows(task: str, spec: TaskSpec, *, chat: bool = False) -> list[Example]:
    """The rows of one split of a source, all of them; `chat` is whether the tokenizer has a chat template.

    Raises:
        MixalignError: when rows cannot be found, read or recognised.
    """
    with about(task):
        part = _splits(spec)["train"]
    tally = Tally(spec.columns)
    examples = read_examples(task, part, tally, chat)
    column_use(task, tally, examples)
    return examples


def _splits(spec: TaskSpec) -> dict[str, list[Table]]:
    arguments = {name: value for name in HUB if (value := getattr(spec, name)) is not None}
    tables = read_source(str(spec.path), arguments)
    parts = {"train": select(tables, spec.split)}
    used = [tables[part.split("[")[0].strip()] for part in spec.split.split("+")]
    for split, given in (("validation", spec.validation), ("test", spec.test)):
        if given is not None:
            is_file = given.endswith(SUFFIXES) or Path(given).expanduser().is_file()
            parts[split] = [read_file(Path(given).expanduser())] if is_file else select(tables, given)
        elif split in tables and all(tables[split] is not table for table in used):  # not what is trained on
            parts[split] = [tables[split]]
    return parts


def _refuse_mixed(task: str, examples: Mapping[str, list[Example]]) -> None:
    kinds: dict[str, str] = {}
    for split, part in examples.items():
        for number, example in enumerate(part, 1):
            kinds.setdefault(example_kind(example), f"row {number} of {split}")
    if len(kinds) > 1:
        parts = [f"{name} (such as {kinds[kind]})" for kind, name in KINDS.items() if kind in kinds]
        raise MixalignError(f"Task `{task}` mixes {' and '.join(parts)}. Make one task of each.")


def _cut(task: str, rows: list[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Moves the prompts with the smallest hashes to the validation side, at least one of them."""
    if not 0 < fraction < 1:
        raise MixalignError(
            f"Task `{task}` has no validation rows, and the validation fraction is {fraction}. Set it "
            f"between 0 and 1, or `data.tasks.{task}.validation` to a file or a split."
        )
    keys = [_hash(prompt_key(row), seed) for row in rows]
    distinct = sorted(set(keys))
    if len(distinct) < 2:
        raise MixalignError(
            f"Task `{task}` has {len(rows)} rows of one prompt: train or validation would be empty. Add rows "
            f"with other prompts, or set `data.tasks.{task}.validation` to a file."
        )
    held = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    chosen = set(distinct[:held])
    sides: tuple[list[Example], list[Example]] = ([], [])
    for key, row in zip(keys, rows, strict=True):
        sides[key in chosen].append(row)
    return sides


def _subset(rows: list[Example], max_rows: int | None, seed: int) -> list[Example]:
    """The rows with the smallest content hashes, in the order they had."""
    if max_rows is None or len(rows) <= max_rows:
        return rows
    hashes = [_hash(json.dumps(row, sort_keys=True, default=str), seed) for row in rows]
    kept = sorted(sorted(range(len(rows)), key=hashes.__getitem__)[:max_rows])
    return [rows[n] for n in kept]


def _hash(text: str, seed: int) -> bytes:
    return hashlib.blake2b(text.encode(), key=str(seed).encode(), digest_size=16).digest()

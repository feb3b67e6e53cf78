"""A task's description, as the configuration gives it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mixalign.checks import check_choice, check_flag, check_number, check_pattern, check_text
from mixalign.data.read.formats import COLUMNS
from mixalign.data.tokens.plans import TRAIN_ON
from mixalign.errors import MixalignError, did_you_mean

__all__ = ["TaskSpec"]

POSITIVE = ("max_rows", "max_length", "rows", "validation_rows", "test_rows")
CHOICES = {"on_bad_row": ("raise", "skip"), "on_overlap": ("raise", "drop"), "train_on": TRAIN_ON}
KINDS = ("preference", "supervised", "unpaired")
MAPPINGS = ("columns", "objective", "chat_template_kwargs", "where")


@dataclass(frozen=True)
class TaskSpec:
    """What the configuration says about one task, under `data.tasks.<name>`."""

    # a file (.jsonl, .json, .csv, .parquet, ...) or a pattern of files, here or at https://, s3://, ...;
    # a folder with files of splits (train, validation|valid|val|dev|eval, test), whole or in shards; a folder made by
    # save_to_disk; a builder of datasets (json, parquet, csv) with data_files; a hub id
    path: str | None = None
    name: str | None = None  # load_dataset's configuration of a hub data set
    data_dir: str | None = None  # load_dataset's folder inside a data set
    data_files: Any = None  # load_dataset's files: one, a list, or split to files
    revision: str | None = None  # load_dataset's commit, branch or tag on the hub
    split: str = "train"  # what is trained on; slices such as "train[:5%]" are allowed
    validation: str | None = None  # a file or a split; default: the source's own, else cut from the train rows
    test: str | None = None  # a file or a split; default: the source's own, else none
    # our column name to theirs, {prompt: question}, or meta.question for one inside an object; or a column of theirs to
    # null: declared unused, {images: null}
    columns: Mapping[str, str | None] = field(default_factory=dict)
    # a column of theirs to the value, or list of values, that rows of this task have; others are not of it
    where: Mapping[str, Any] = field(default_factory=dict)
    # what the rows are: preference (pairs), supervised (single answers) or unpaired (answers with a label); an
    # objective that cannot learn from them is refused before they are read; default: found out by reading them
    kind: str | None = None
    on_bad_row: str | None = None  # a row that cannot be read: raise, or skip with a count; default: data.on_bad_row
    on_overlap: str = "raise"  # rows of train that are in validation or test as well: raise, or drop them from train
    train_on: str = (
        "assistant"  # of conversations: every turn of the assistant, the last one (last), or all tokens (all)
    )
    # of the training split: a seeded uniform subset, whatever the order of the rows; rows of it that are too long are
    # dropped afterwards, and a warning says how many remain
    max_rows: int | None = None
    max_length: int | None = None  # tokens of prompt and completion; default: that of all tasks
    objective: Mapping[str, Any] = field(default_factory=dict)  # this task's settings of it: beta, loss, ...
    # rows of plain text (prompt and completion, or chosen and rejected) become turns of the user and of the assistant,
    # which the chat template writes; conversations stay as they are. Without it text is learned as it stands
    apply_chat_template: bool = False
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # variables of the chat template
    # how generated answers are scored (eval.generate): exact (the same text as the row's own answer); {regex: "..."}
    # (the same last match, or the same groups of it); or a function of prompt, answer and generated text such as
    # my_module.score, which MIXALIGN_TARGETS must name; null: as the generator has it, or not at all
    scorer: str | Mapping[str, str] | None = None
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
        key, known = f"data.tasks.{task_name}", {entry.name for entry in fields(cls)}
        if not isinstance(mapping, Mapping):
            if task_name in known:
                raise MixalignError(
                    f"`{key}={mapping}` names no task: `{task_name}` is a setting of each task. Set "
                    f"`data.tasks.<name>.{task_name}`."
                )
            raise MixalignError(
                f"`{key}` is {mapping!r}, but must be a mapping such as {{path: {task_name}.jsonl}}, in quotes on a "
                f"command line: '{key}={{path: {task_name}.jsonl}}'."
            )
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
    elif name == "kind":
        check_choice(key, value, KINDS)
    elif name in CHOICES:
        check_choice(key, value, CHOICES[name])
    elif name == "apply_chat_template":
        check_flag(key, value)
    elif name == "scorer":
        _check_scorer(key, value)
    else:
        check_text(key, value)
    if name == "columns":
        _check_columns(key, value)
    if name == "objective":
        for entry, setting in value.items():
            kind, wanted = (str, "a word") if entry == "loss" else (int | float, "a number, or true or false")
            if not isinstance(setting, kind):
                raise MixalignError(f"`{key}.{entry}` is {setting!r}, but must be {wanted}.")


def _check_scorer(key: str, value: Any) -> None:
    """Refuses what is none of the three ways to score; a function is looked for where it may be imported."""
    if isinstance(value, Mapping) and [*value] == ["regex"]:
        check_pattern(f"{key}.regex", value["regex"])
    elif not isinstance(value, str) or (value != "exact" and not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", value)):
        raise MixalignError(
            f"`{key}` is {value!r}, but must be exact, {{regex: ...}}, or a function such as my_module.score."
        )


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

"""Rows that are there twice: within a split, or on two sides."""

import logging
from dataclasses import dataclass

import numpy as np

from mixalign.data.read.cut import content_keys, digests, prompt_keys, ranks
from mixalign.data.read.formats import prompt_key
from mixalign.data.read.rows import Rows
from mixalign.errors import MixalignError
from mixalign.terminal import counted
from mixalign.types import Example, Message

__all__ = ["RowsReport", "compare"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowsReport:
    """What is worth knowing of the rows of a split before anything is trained on them.

    Attributes:
        rows: those that are there, repeated ones and all.
        duplicates: rows that equal an earlier row of the split in everything.
        same_prompt: rows with the prompt of an earlier row of the split, and other answers.
        trained_prompts: rows of validation or test whose prompt is trained on with other answers.
        bad: rows left out because they cannot be read (`on_bad_row: skip`).
        dropped: training rows left out because they are in validation or test as well (`on_overlap: drop`).
    """

    rows: int
    duplicates: int
    same_prompt: int
    trained_prompts: int = 0
    bad: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class _Keys:
    """Numbers of each row (N,): the same where rows, or prompts, are the same, in whichever splits."""

    content: np.ndarray
    prompt: np.ndarray

    def take(self, row_M: np.ndarray) -> "_Keys":
        return _Keys(self.content[row_M], self.prompt[row_M])


def compare(task: str, splits: dict[str, Rows], *, drop: bool = False) -> tuple[dict[str, Rows], dict[str, RowsReport]]:
    """Looks for rows that are there twice.

    Args:
        splits: `train`, `validation`, and maybe `test`.
        drop: whether a training row that is in validation or test as well is left out.

    Returns:
        The splits, without what was dropped, and a report on each.

    Raises:
        MixalignError: when a row of validation or test is trained on, prompt and answers alike, and `drop` is False;
            or when no training row is left.
    """
    keys = _keys(splits)
    train, dropped = splits["train"], 0
    held = np.concatenate([part.content for split, part in keys.items() if split != "train"])
    if len(both := np.intersect1d(held, keys["train"].content)):
        if not drop:
            raise MixalignError(_overlap(task, splits, keys, both))
        kept = np.flatnonzero(~np.isin(keys["train"].content, both))
        dropped = len(keys["train"].content) - len(kept)
        train = train.take(kept)
        keys["train"] = keys["train"].take(kept)
        if not len(kept):
            raise MixalignError(
                f"Task `{task}`: all {dropped} training rows are in validation or test as well, so `on_overlap: drop` "
                "leaves none to train on. Give it other rows."
            )
        are = "row is left out, which is" if dropped == 1 else "rows are left out, which are"
        log.warning("Task `%s`: %d training %s in validation or test as well.", task, dropped, are)
    splits = {**splits, "train": train}
    reports = {
        split: RowsReport(
            rows=len(part.content),
            duplicates=len(part.content) - _distinct(part.content),
            same_prompt=_distinct(part.content) - _distinct(part.prompt),
            trained_prompts=0 if split == "train" else int(np.isin(part.prompt, keys["train"].prompt).sum()),
            bad=len(splits[split].bad),
            dropped=dropped if split == "train" else 0,
        )
        for split, part in keys.items()
    }
    _warn(task, reports, keys)
    return splits, reports


def _keys(splits: dict[str, Rows]) -> dict[str, _Keys]:
    parts = [*splits.values()]
    contents = ranks(*(content_keys(rows.examples) for rows in parts))
    (prompt_N,) = ranks(digests(prompt_keys(*parts), 0))
    prompts = np.split(prompt_N, np.cumsum([len(content_N) for content_N in contents])[:-1])
    return {split: _Keys(*both) for split, *both in zip(splits, contents, prompts, strict=True)}


def _distinct(key_N: np.ndarray) -> int:
    return len(np.unique(key_N))


def _overlap(task: str, splits: dict[str, Rows], keys: dict[str, _Keys], both: np.ndarray) -> str:
    counts = {split: int(np.isin(part.content, both).sum()) for split, part in keys.items()}
    split = next(split for split, count in counts.items() if split != "train" and count)
    number = int(np.isin(keys[split].content, both).argmax())
    where = " and ".join(
        f"{count} of the {len(keys[name].content)} rows of {name}"
        for name, count in counts.items()
        if count and name != "train"
    )
    one = f"row {number + 1} of {split}, `{_short(_asked(splits[split].examples[number]))}`"
    single = sum(counts.values()) - counts["train"] == 1
    are, such_as, them = ("is", ":", "it") if single else ("are", ", such as", "them")
    return (
        f"Task `{task}`: {where} {are} trained on as well, with the same prompt and answers{such_as} {one}. Remove "
        f"{them} on one side, or set `data.tasks.{task}.on_overlap=drop`, which leaves out the "
        f"{counted(counts['train'], 'row')} of train."
    )


def _asked(row: Example) -> str:
    """What a row asks, without what a conversation has before it."""
    prompt = row.get("prompt")
    turns: list[Message] = prompt if isinstance(prompt, list) else row.get("messages") or []
    asked = [str(turn.get("content")) for turn in turns if turn.get("role") == "user"]
    return asked[-1] if asked else prompt_key(row)


def _warn(task: str, reports: dict[str, RowsReport], keys: dict[str, _Keys]) -> None:
    for split, report in reports.items():
        if report.trained_prompts:
            log.warning(
                "Task `%s`: %d of the %d rows of %s %s a prompt that is trained on with other answers.",
                task, report.trained_prompts, report.rows, split, "has" if report.trained_prompts == 1 else "have",
            )  # fmt: skip
    if "test" in keys and len(both := np.intersect1d(keys["validation"].content, keys["test"].content)):
        are = "is" if len(both) == 1 else "are"
        log.warning("Task `%s`: %s %s in validation and in test.", task, counted(len(both), "row"), are)


def _short(text: str) -> str:
    """Its beginning and end: what a task's prompts begin with may be the same for all."""
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:30]} ... {text[-45:]}"

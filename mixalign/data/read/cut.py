"""Which rows of a task validate where nobody says which, and which stay where only some are wanted."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mixalign.data.read.formats import prompt_key
from mixalign.data.read.pairs import HH_TURN
from mixalign.data.read.rows import Rows
from mixalign.errors import MixalignError
from mixalign.types import Example

__all__ = ["content_keys", "cut", "digests", "prompt_keys", "ranks", "subset"]

ANSWER = re.compile(
    r"(?:^|\n)[#* ]*(?:answer|a|assistant|response|reply|output|solution|completion|bot|ai|model)[* ]*:"
    r"|\[/INST\]|<\|assistant\|>|<\|im_start\|>assistant|<start_of_turn>model|<\|end_header_id\|>",
    re.IGNORECASE,
)
"""What stands before an answer in prompts that are one text."""


def content_keys(examples: Iterable[Example]) -> np.ndarray:
    """As of `digests`, for rows: they differ where anything of two rows differs."""
    return digests(map(_content, examples), 0)


def digests(texts: Iterable[str], seed: int) -> np.ndarray:
    """uint64 (N, 2): a hash of 16 bytes of each text."""
    found = bytearray()
    for text in texts:
        found += _hash(text, seed)
    return np.frombuffer(found, ">u8").reshape(-1, 2).astype(np.uint64)


def ranks(*keys: np.ndarray) -> list[np.ndarray]:
    """int64 (N,) for each array of hashes: the place of each among all the different ones, in their order."""
    all_N2 = np.concatenate(keys)
    order_N = np.lexsort((all_N2[:, 1], all_N2[:, 0]))
    sorted_N2 = all_N2[order_N]
    rank_N = np.zeros(len(all_N2), np.int64)
    rank_N[order_N[1:]] = np.cumsum((sorted_N2[1:] != sorted_N2[:-1]).any(1))
    return np.split(rank_N, np.cumsum([len(one) for one in keys])[:-1])


def prompt_keys(*parts: Rows) -> Iterator[str]:
    """The text of each row by which rows of one prompt are kept together, of several splits one after the other.

    That is the prompt itself, but for pairs of texts without a `prompt`. What their two answers share counts
    as prompt, and that may be a few words of the answers as well: `Answer: I th` of "I think" and "I thought".
    So there everything behind the last mark of an answer (`Answer:`, `[/INST]`, ...) is left out, and prompts of
    which one begins with the other are one. Prompts that end with HH-RLHF's mark are what they are.
    """
    joined = _joined(key for rows in parts if any(rows.guessed) for key, is_unsure in _prompts(rows) if is_unsure)
    return (joined[key] if is_unsure else key for rows in parts for key, is_unsure in _prompts(rows))


def _prompts(rows: Rows) -> Iterator[tuple[str, bool]]:
    """The prompt of each row, and whether it may have a few words of the answers at its end."""
    for example, guessed in zip(rows.examples, rows.guessed, strict=True):
        key = prompt_key(example)
        yield key, bool(guessed) and not key.endswith(HH_TURN)


def _joined(prompts: Iterable[str]) -> dict[str, str]:
    """Each prompt, and the first of those that begin like it."""
    found: dict[str, str] = {}
    start = first = None
    for begin, prompt in sorted((_until_answer(prompt), prompt) for prompt in set(prompts)):
        if start is None or not begin.startswith(start):
            start, first = begin, prompt
        found[prompt] = first or prompt
    return found


def _until_answer(prompt: str) -> str:
    marks = [match.end() for match in ANSWER.finditer(prompt)]
    return prompt[: marks[-1]] if marks else prompt


def cut(task: str, rows: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Moves the prompts with the smallest hashes to the validation side, at least one of them.

    Args:
        fraction: share of the distinct prompts that validate.

    Raises:
        MixalignError: when the fraction is not between 0 and 1, there is one prompt only, or nothing but pairs of two
            same answers would validate.
    """
    if not 0 < fraction < 1:
        raise MixalignError(
            f"Task `{task}` has no validation rows, and the validation fraction is {fraction}. Set it "
            f"between 0 and 1, or `data.tasks.{task}.validation` to a file or a split."
        )
    (rank_N,) = ranks(digests(prompt_keys(rows), seed))
    if rank_N.max(initial=0) < 1 and all("messages" in row for row in rows.examples):
        # conversations that open alike, as with a greeting, are not rows of one prompt
        (rank_N,) = ranks(digests(map(_content, rows.examples), seed))
    distinct = int(rank_N.max(initial=-1)) + 1
    if distinct < 2:
        guessed = " What the texts of all pairs share at their beginning counts as prompt." if any(rows.guessed) else ""
        raise MixalignError(
            f"Task `{task}` has {len(rank_N)} rows of one prompt: train or validation would be empty.{guessed} Add "
            f"rows with other prompts, or set `data.tasks.{task}.validation` to a file."
        )
    held = min(max(1, round(fraction * distinct)), distinct - 1)
    train, validation = (rows.take(np.flatnonzero((rank_N < held) == side)) for side in (False, True))
    _refuse_same_answers(task, train.examples, validation.examples)
    return train, replace(validation, bad=())  # they are told of once


def _refuse_same_answers(task: str, train: Sequence[Example], validation: Sequence[Example]) -> None:
    """A loss over pairs of two same answers says nothing; where all pairs are such, tokenisation says so."""
    if all(map(_is_same, validation)) and not all(map(_is_same, train)):
        same = sum(map(_is_same, train)) + len(validation)
        raise MixalignError(
            f"Task `{task}`: `chosen` and `rejected` are the same in {same} of its {len(train) + len(validation)} "
            f"rows, and the {len(validation)} that were cut to validate are all of those. Remove such rows, or raise "
            f"`data.validation_fraction`, or set `data.tasks.{task}.validation` to a file."
        )


def _is_same(row: Mapping[str, object]) -> bool:
    return "chosen" in row and row["chosen"] == row["rejected"]


def subset(rows: Rows, max_rows: int | None, seed: int) -> Rows:
    """The rows with the smallest content hashes, in the order they had."""
    if max_rows is None or len(rows.examples) <= max_rows:
        return rows
    (rank_N,) = ranks(digests(map(_content, rows.examples), seed))
    return rows.take(np.sort(np.argsort(rank_N, kind="stable")[:max_rows]))


def _content(example: Example) -> str:
    return json.dumps(example, sort_keys=True, default=str)


def _hash(text: str, seed: int) -> bytes:
    return hashlib.blake2b(text.encode(), key=str(seed).encode(), digest_size=16).digest()

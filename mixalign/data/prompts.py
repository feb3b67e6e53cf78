"""Prompts for a model to go on from, out of tokenised rows: what a row is trained to be answered by is left out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixalign.data.dataset import TaskDataset

__all__ = ["Prompt", "end_tokens", "some_prompts"]


@dataclass(frozen=True)
class Prompt:
    """What is asked in one row.

    Attributes:
        row: number of the row in its table, from 0.
        ids: int32 (T,), all tokens before the last run of learned ones, as training has them.
        answer_ids: int32 (C,), that run: what the row is answered by; of a pair the chosen answer.
    """

    row: int
    ids: np.ndarray
    answer_ids: np.ndarray


def some_prompts(table: TaskDataset, number: int, seed: int) -> list[Prompt]:
    """A few distinct prompts of a table, the same ones for the same rows; fewer where it has no more.

    Rows that are learned from their first token on have no prompt, and are passed over.

    Args:
        number: how many.
        seed: of the choice.
    """
    table = table.first_completion()
    chosen: dict[bytes, Prompt] = {}
    for row in np.random.default_rng(seed).permutation(len(table)):
        if len(chosen) == number:
            break
        prompt = _prompt(table, int(row))
        if len(prompt.ids):
            chosen.setdefault(prompt.ids.tobytes(), prompt)
    return list(chosen.values())


def _prompt(table: TaskDataset, row: int) -> Prompt:
    start = int(table.start_N[row])
    stop = start + int(table.length_NS[row, :2].sum())
    ids, learned = np.asarray(table.ids_T[start:stop]), np.asarray(table.supervised_T[start:stop])
    end = int(np.flatnonzero(learned)[-1]) + 1 if learned.any() else 0
    others = np.flatnonzero(~learned[:end])
    begin = int(others[-1]) + 1 if len(others) else 0
    return Prompt(row, ids[:begin], ids[begin:end])


def end_tokens(prompts: list[Prompt], tokenizer: Any) -> list[int]:
    """The special tokens by which answers end, sorted: where a model that has learned them stops.

    White space behind such a token, as chat templates write it, is passed over.
    """
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    return sorted({end for prompt in prompts for end in _end(prompt, tokenizer, special)})


def _end(prompt: Prompt, tokenizer: Any, special: set[int]) -> Iterator[int]:
    for token in prompt.answer_ids[::-1].tolist():
        if token in special:
            yield token
            return
        if tokenizer.decode([token]).strip():
            return

"""Tokenised rows as text again, in spans that are learned or not: what the loss reads, not what a file says."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from rich.cells import cell_len

from mixalign.data.dataset import TaskDataset
from mixalign.types import Form

__all__ = ["ShownRow", "Side", "Span", "shown_rows"]

OTHER = "another row's"  # is read for KTO's estimate of the KL, which has no gradient
NAMES: dict[Form, tuple[str, ...]] = {
    "preference": ("chosen", "rejected"),
    "supervised": ("completion",),
    "unpaired": ("completion",),
    "mismatched": ("completion", OTHER),
}
MOST = 400  # cells of a long span that are shown, its head and its tail together
LONG = 500  # cells of a span from which on its middle is left out
LINE = 40  # cells that a line break counts as
BEFORE = 8  # tokens before a span that its text may depend on: a word's blank, the first bytes of a letter
BROKEN = "\ufffd"  # stands for bytes that are no whole letter


@dataclass(frozen=True)
class Span:
    """Neighbouring tokens that are all learned, or all not.

    Attributes:
        text: all of it, special tokens too.
        tokens: how many they are.
        head, tail: what a reader is shown of a long text; all of a short one is `head`.
        left_out: tokens between the two.
    """

    text: str
    tokens: int
    learned: bool
    head: str
    tail: str = ""
    left_out: int = 0


@dataclass(frozen=True)
class Side:
    """A prompt, or one of the answers behind it."""

    name: str
    spans: tuple[Span, ...]

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)

    @property
    def tokens(self) -> int:
        return sum(span.tokens for span in self.spans)

    @property
    def learned_tokens(self) -> int:
        return sum(span.tokens for span in self.spans if span.learned)


@dataclass(frozen=True)
class ShownRow:
    """A training row: its prompt and its answers, with what is learned of them.

    Attributes:
        number: of the row among those that were kept, from 1 on.
        label: the verdict on the answer; None where rows have none.
        weight: of the row inside its task.
    """

    number: int
    prompt: Side
    answers: tuple[Side, ...]
    label: bool | None = None
    weight: float = 1.0

    @property
    def tokens(self) -> int:
        return sum(side.tokens for side in (self.prompt, *self.answers))

    @property
    def learned_tokens(self) -> int:
        return sum(side.learned_tokens for side in self.answers)


def shown_rows(table: TaskDataset, tokenizer: Any, form: Form, num_rows: int) -> list[ShownRow]:
    """The first rows of a table, as text.

    Args:
        tokenizer: that made the table.
        form: of the rows.
        num_rows: how many; all, where the table has fewer.
    """
    return [_shown(table, n, tokenizer, NAMES[form]) for n in range(min(num_rows, len(table)))]


def _shown(table: TaskDataset, n: int, tokenizer: Any, names: Sequence[str]) -> ShownRow:
    row = table[n]
    prompt = row["prompt"]
    answers = []
    for name, ids, mask in zip(names, row["completions"], row["supervised"], strict=True):
        learned = mask & (name != OTHER)
        answers.append(_side(name, np.concatenate([prompt, ids]), len(prompt), learned, tokenizer))
    label, weight = (table.columns.get(name) for name in ("label", "weight"))
    return ShownRow(
        n + 1,
        _side("prompt", prompt, 0, np.zeros(len(prompt), bool), tokenizer),
        tuple(answers),
        None if label is None else bool(label[n]),
        1.0 if weight is None else float(weight[n]),
    )


def _side(name: str, ids_T: np.ndarray, start: int, mask: np.ndarray, tokenizer: Any) -> Side:
    """The tokens from `start` on, in spans; those before are where their text begins."""
    text = _decoder(ids_T.tolist(), tokenizer)
    turns = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    edges = [0, *turns.tolist(), len(mask)] if len(mask) else []
    return Side(name, tuple(_span(text, start + a, start + b, bool(mask[a])) for a, b in pairwise(edges)))


Decode = Callable[[int, int], str]
"""Text of the tokens from one place to another."""


def _decoder(ids: list[int], tokenizer: Any) -> Decode:
    def decode(start: int, end: int) -> str:
        return str(tokenizer.decode(ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def text(start: int, end: int) -> str:
        first = max(0, start - BEFORE)
        before, both = decode(first, start), decode(first, end)
        return both[len(before) :] if both.startswith(before) else decode(start, end)

    return text


def _span(text: Decode, start: int, end: int, learned: bool) -> Span:
    whole, tokens = text(start, end), end - start
    if _cells(whole) < LONG:
        return Span(whole, tokens, learned, whole)
    head = bisect_right(range(tokens), 2 * MOST // 3, key=lambda n: _cells(text(start, start + n))) - 1
    tail = bisect_right(range(tokens - head), MOST // 3, key=lambda n: _cells(text(end - n, end))) - 1
    while head > 0 and text(start, start + head).endswith(BROKEN):
        head -= 1
    while tail > 0 and text(end - tail, end).startswith(BROKEN):
        tail -= 1
    return Span(whole, tokens, learned, text(start, start + head), text(end - tail, end), tokens - head - tail)


def _cells(text: str) -> int:
    return cell_len(text) + LINE * text.count("\n")

"""Rows of one task to token ids: where prompts and supervised spans end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mixalign.data.prefix import common_ids, common_prefix
from mixalign.data.tokens.chat import Chat, Span
from mixalign.data.tokens.chunk import Piece, TokenChunk, flatten
from mixalign.data.tokens.look import Rendered, problem_of, unread
from mixalign.data.tokens.plans import Planner, ReadOptions, Texts
from mixalign.errors import MixalignError

if TYPE_CHECKING:  # the types import torch, a second for each worker of a pool
    from mixalign.types import Example

__all__ = ["Reader"]

NO_IDS = np.zeros(0, np.int32)
FIRST, EVERY = 16, 64  # conversations that are looked at: the first ones, and one in so many of the others
TAIL = 8  # tokens at the end of what is learned, among which a token that stops has to be
MARKUP = re.compile(r"[<\[|]")  # begins tokens that stand for no word


class Reader:
    """Renders and tokenises rows of one task.

    Args:
        where: begins every message.
    """

    def __init__(self, tokenizer: Any, where: str, options: ReadOptions) -> None:
        self.tokenizer, self.where, self.options = tokenizer, where, options
        self.chat = Chat(tokenizer, where, options.variables, options.day)
        self.planner = Planner(self.chat, tokenizer.eos_token, where, options)
        self.bos, self.eos = tokenizer.bos_token, tokenizer.eos_token
        probe = tokenizer("a")["input_ids"]
        self.adds_bos = self.bos is not None and probe[:1] == [tokenizer.bos_token_id]
        self.adds_eos = self.eos is not None and probe[-1:] == [tokenizer.eos_token_id]
        self.stops = _stops(tokenizer)

    def read(self, examples: Sequence[Example], first: int) -> TokenChunk:
        """Tokenises rows together, the first of which is row number `first` of its split.

        Raises:
            MixalignError: see `tokenise`.
        """
        problems: list[str] = []
        pieces = self._pieces(examples, first, problems)
        return flatten(pieces, self.options.form, self.options.max_length, problems)

    def _pieces(self, examples: Sequence[Example], first: int, problems: list[str]) -> Iterator[Piece]:
        """Two calls of the tokenizer for all texts: the standard ones, and those that a template wrote."""
        plans = [self.planner.plan(example, f"row {n}") for n, example in enumerate(examples, first)]
        tables = {templated: self._tokenised(plans, templated) for templated in (True, False)}
        for number, plan in enumerate(plans, first):
            if isinstance(plan, Piece):
                yield plan
                continue
            table = tables[plan.templated]
            piece = _assemble(plan, table)
            if plan.talks and (number <= FIRST or number % EVERY == 0):
                problems += self._look(plan, piece, table, f"row {number}")
            yield piece

    def _tokenised(self, plans: Sequence[Texts | Piece], templated: bool) -> _Table:
        """All texts of rows that a template wrote, or of the others: each once, in one call of the tokenizer."""
        kept = [plan for plan in plans if isinstance(plan, Texts) and plan.templated == templated]
        texts = list(dict.fromkeys(t for plan in kept for t in (*([plan.prompt] * (plan.learned is None)), *plan.full)))
        if not texts:
            return _Table(self)
        options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        made = self.tokenizer(texts, add_special_tokens=not templated, **options)
        lists: list[list[int]] = made["input_ids"]
        if not templated and (self.adds_bos or self.adds_eos):
            # a template writes BOS itself; standard text gets what the tokenizer adds, but never twice, and the end
            # is dropped because completions carry EOS as text, and prompts go on
            end = -1 if self.adds_eos else None
            begins = [int(self.adds_bos and text.startswith(self.bos)) for text in texts]
            lists = [ids[begin:end] for begin, ids in zip(begins, lists, strict=True)]
        ids = dict(zip(texts, (np.array(one, np.int32) for one in lists), strict=True))
        return _Table(self, ids, dict(zip(texts, made.encodings or [], strict=False)))

    def _look(self, plan: Texts, piece: Piece, table: _Table, row: str) -> list[str]:
        """What is wrong with the text or the mask of one row, where the options want it counted.

        Raises:
            MixalignError: where they do not.
        """
        for talk, text, ids in zip(plan.talks, plan.full, piece.full, strict=True):
            if plan.learned is not None:
                spans: Mapping[int, Span] = plan.learned
            else:
                spans = {len(talk) - 1: (common_prefix(plan.prompt, text), len(text))}
            ends = {}
            for turn, span in spans.items():
                start, end = table.tokens(text, span)
                ends[turn] = ids[max(start, end - TAIL) : end].tolist()
            seen = Rendered(talk, text, spans, ends, plan.asked, plan.tools)
            if problem := problem_of(seen, self.stops):
                if self.options.on_lost_text == "raise":
                    aside = "`data.on_lost_text=warn` trains all the same."
                    raise MixalignError(f"{self.where}: {row}: {problem}. {self.chat.cure} {aside}")
                return [f"{row}: {problem}"]
            if note := unread(seen):
                return [f"{row}: {note}"]
        return []


@dataclass(frozen=True)
class _Table:
    """Texts and what the tokenizer made of them."""

    reader: Reader
    ids: Mapping[str, np.ndarray] = field(default_factory=dict)
    encodings: Mapping[str, Any] = field(default_factory=dict)  # none of a tokenizer in Python

    def tokens(self, text: str, span: Span) -> tuple[int, int]:
        """The tokens that have characters of a span, as a range."""
        ids = self.ids[text]
        if (encoding := self.encodings.get(text)) is None:
            edges = [self.reader.tokenizer(text[:at], add_special_tokens=False)["input_ids"] for at in span]
            start, end = (common_prefix(edge, ids.tolist()) for edge in edges)
            return start, end
        found = (token for at in range(*span) if (token := encoding.char_to_token(at)) is not None)
        last = (token for at in reversed(range(*span)) if (token := encoding.char_to_token(at)) is not None)
        start = next(found, len(ids))
        return start, next(last, start - 1) + 1


def _assemble(plan: Texts, table: _Table) -> Piece:
    full = [table.ids[text] for text in plan.full]
    if plan.learned is None:
        asked = table.ids[plan.prompt]
        prompt = min(common_ids(asked, one) for one in full)
        marks, mismatch = [np.ones(len(one), bool) for one in full], prompt < len(asked)
    else:
        spans = [table.tokens(plan.full[0], span) for span in plan.learned.values()]
        prompt, marks = min((start for start, _ in spans), default=len(full[0])), [np.zeros(len(full[0]), bool)]
        mismatch = plan.cut
        for start, end in spans:
            marks[0][start:end] = True
    for mark in marks:
        mark[: max(prompt, 1)] = False  # nothing precedes the first token, so nothing can predict it
    return Piece(full, marks, prompt, mismatch, plan.label, plan.weight)


def _stops(tokenizer: Any) -> dict[int, str]:
    """Id to text of the tokens that can end a turn: the special ones, and added ones that stand for no word."""
    special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    added = {n: str(token) for n, token in tokenizer.added_tokens_decoder.items() if MARKUP.match(str(token))}
    return special | added

"""Rows of one task to token ids: what has to be tokenised, and where prompts and supervised spans end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mixalign.data.tokens.chunk import Piece, TokenChunk, flatten
from mixalign.errors import MixalignError

if TYPE_CHECKING:  # the types import torch, a second for each worker of a pool
    from mixalign.types import Example, Message

__all__ = ["Reader"]

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
NO_IDS = np.zeros(0, np.int32)
ANSWERS = {"completion", "chosen"}  # what a supervised row learns; a row has one of them


@dataclass(frozen=True)
class _Texts:
    """What has to be tokenised for one row."""

    prompt: str
    full: list[str]  # prompt and completion, S times
    edges: list[str] | None = None  # where supervised spans begin and end, in turn; None: all of the completion
    label: bool | None = None  # of an unpaired row


class Reader:
    """Renders and tokenises rows of one task; `where` begins every message."""

    def __init__(self, tokenizer: Any, where: str, form: str, max_length: int, kwargs: dict[str, Any]) -> None:
        self.tokenizer, self.where, self.form = tokenizer, where, form
        self.max_length, self.kwargs = max_length, kwargs
        self.bos, self.eos = tokenizer.bos_token, tokenizer.eos_token
        probe = tokenizer("a")["input_ids"]
        self.adds_bos = self.bos is not None and probe[:1] == [tokenizer.bos_token_id]
        self.adds_eos = self.eos is not None and probe[-1:] == [tokenizer.eos_token_id]

    def read(self, examples: Sequence[Example], first: int) -> TokenChunk:
        """Tokenises rows together, the first of which is row number `first` of its split.

        Raises:
            MixalignError: see `tokenise`.
        """
        return flatten(self._pieces(examples, first), self.form, self.max_length)

    def _pieces(self, examples: Sequence[Example], first: int) -> Iterator[Piece]:
        """Two calls of the tokenizer for all texts: the standard ones, and those that a template wrote."""
        plans = [self._plan(example, f"row {n}") for n, example in enumerate(examples, first)]
        wanted: dict[bool, dict[str, np.ndarray]] = {True: {}, False: {}}
        for templated, plan in plans:
            if isinstance(plan, _Texts):
                wanted[templated].update(dict.fromkeys((plan.prompt, *plan.full, *(plan.edges or [])), NO_IDS))
        for templated, texts in wanted.items():
            lists = self._ids(list(texts), templated)
            texts.update(zip(list(texts), (np.array(ids, np.int32) for ids in lists), strict=True))
        for templated, plan in plans:
            yield plan if isinstance(plan, Piece) else _assemble(plan, wanted[templated])

    def _ids(self, texts: list[str], templated: bool) -> list[list[int]]:
        """A template writes BOS itself; standard text gets what the tokenizer adds, but never twice."""
        if not texts:
            return []
        options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        lists: list[list[int]] = self.tokenizer(texts, add_special_tokens=not templated, **options)["input_ids"]
        if templated or not (self.adds_bos or self.adds_eos):
            return lists
        # the end is dropped because completions carry EOS as text, and prompts go on
        end = -1 if self.adds_eos else None
        begins = [int(self.adds_bos and text.startswith(self.bos)) for text in texts]
        return [ids[begin:end] for begin, ids in zip(begins, lists, strict=True)]

    def _plan(self, example: Example, row: str) -> tuple[bool, _Texts | Piece]:
        """Whether a template writes the row's texts, and the texts."""
        self._check_form(example, row)
        if "messages" in example:
            return True, self._messages(example, row)
        prompt: Any = example["prompt"]
        names = ("chosen", "rejected") if self.form == "preference" else (next(iter({*example} & ANSWERS)),)
        answers: list[Any] = [example[name] for name in names]  # type: ignore[literal-required]
        label = example.get("label")
        if isinstance(prompt, str):
            return False, _Texts(prompt, [prompt + self._ended(answer) for answer in answers], label=label)
        full = [self._render(prompt + answer, example, row) for answer in answers]
        return True, _Texts(self._render(prompt, example, row, generation=True), full, label=label)

    def _check_form(self, example: Example, row: str) -> None:
        """Refuses a row that the objective cannot learn from."""
        if self.form == "preference" and "chosen" not in example:
            raise MixalignError(
                f"{self.where}: {row} has no `chosen` and `rejected`, but objective=dpo needs preference "
                "rows. Give the task such rows, or train with objective=sft."
            )
        if self.form == "supervised" and "label" in example:
            raise MixalignError(
                f"{self.where}: {row} is an unpaired preference (prompt, completion and a `label` of true or false), "
                "which objective=sft does not learn from. Train with objective=kto, or keep the rows labelled true "
                "and remove `label`."
            )
        if self.form in ("unpaired", "mismatched") and "label" not in example:
            raise MixalignError(
                f"{self.where}: {row} has no `label` of true or false beside `prompt` and `completion` (quoted, or a "
                "number, it is none), but objective=kto needs one, or pairs with `chosen` and `rejected`. Give such "
                "rows, or train with objective=sft."
            )

    def _ended(self, completion: str) -> str:
        if not self.eos:
            raise MixalignError(
                f"{self.where}: the tokenizer has no EOS token, so the model could not learn where an answer "
                "ends. Set `tokenizer.eos_token` and save the tokenizer with the model."
            )
        return completion if completion.endswith(self.eos) else completion + self.eos

    def _messages(self, example: Example, row: str) -> _Texts | Piece:
        """Only the assistant's turns are learned: what each one adds to the generation prompt."""
        messages = example["messages"]
        full = self._render(messages, example, row)
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        edges = [self._edges(messages, i, full, example, row) for i in turns]
        if all(edges):
            flat = [text for edge in edges if edge for text in edge]
            return _Texts(flat[0] if flat else full, [full], flat)
        if GENERATION.search(self.tokenizer.get_chat_template(tools=example.get("tools"))):
            return self._masked(messages, example)
        raise MixalignError(
            f"{self.where}: the chat template renders the beginning of {row} differently once more turns "
            "follow, so the tokens of the assistant's turns cannot be found. Use a template with {% "
            "generation %} around them, or give rows with `prompt` and `completion`."
        )

    def _edges(
        self, messages: list[Message], turn: int, full: str, example: Example, row: str
    ) -> tuple[str, str] | None:
        """The text up to a turn's answer and up to its end; None when the whole text does not begin so."""
        end = full if turn + 1 == len(messages) else self._render(messages[: turn + 1], example, row)
        start = self._render(messages[:turn], example, row, generation=True) if turn else ""
        # a generation prompt may end in something that a finished turn lacks, such as an empty thought: then
        # the turns before it must match, and the answer begins where the ids part
        known = full.startswith(start) or full.startswith(self._render(messages[:turn], example, row))
        return (start, end) if known and full.startswith(end) else None

    def _masked(self, messages: list[Message], example: Example) -> Piece:
        encoded = self.tokenizer.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **self._variables(example),
        )
        mask = np.array(encoded["assistant_masks"], bool)
        prompt = int(mask.argmax()) if mask.any() else len(mask)
        mask[:1] = False  # nothing precedes the first token
        return Piece([np.array(encoded["input_ids"], np.int32)], [mask], prompt, False)

    def _render(self, messages: list[Message], example: Example, row: str, generation: bool = False) -> str:
        from jinja2 import TemplateError, TemplateSyntaxError  # the first: also on turns that it does not allow

        if self.tokenizer.chat_template is None:
            raise MixalignError(
                f"{self.where}: {row} is a conversation, but the tokenizer has no chat template. Use the "
                "tokenizer of a chat model, set `tokenizer.chat_template`, or give rows of plain text."
            )
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation, **self._variables(example)
            )
            return text
        except TemplateSyntaxError as error:
            raise MixalignError(
                f"{self.where}: the tokenizer's chat template is not valid, line {error.lineno}: {error}. Correct "
                "`tokenizer.chat_template`."
            ) from error
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise MixalignError(
                f"{self.where}: the chat template refuses {row}: {error}. Correct the row or the template."
            ) from error

    def what_is_lost(self, examples: Sequence[Example]) -> str:
        """A sentence on why conversations have no token to learn from; empty when the first rows do not show it."""
        for example in examples:
            turns: list[Any] = [
                turn
                for name in ("messages", "prompt", "completion", "chosen")
                if isinstance(part := example.get(name), list)
                for turn in part
            ]
            answers = [turn.get("content") for turn in turns if turn["role"] == "assistant"]
            if turns and not answers:
                roles = ", ".join(dict.fromkeys(turn["role"] for turn in turns))
                return f" The turns of row 1 have the roles {roles}; those of `assistant` are learned."
            if not answers or not isinstance(answers[-1], str):
                continue
            text = self._render(turns, example, "row 1")
            if answers[-1].strip() not in text:
                shown = repr(text if len(text) <= 60 else text[:57] + "...")
                return f" The chat template leaves out the assistant's text: row 1 becomes {shown}. Correct it."
        return ""

    def _variables(self, example: Example) -> dict[str, Any]:
        return {"tools": example.get("tools"), **self.kwargs, **example.get("chat_template_kwargs", {})}


def _assemble(texts: _Texts, ids: Mapping[str, np.ndarray]) -> Piece:
    full = [ids[text] for text in texts.full]
    prompt = min(_shared(ids[texts.prompt], one) for one in full)
    marks = [np.full(len(one), texts.edges is None) for one in full]
    if texts.edges is not None:
        edges = [_shared(ids[text], full[0]) for text in texts.edges]
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            marks[0][start:end] = True
    for mark in marks:
        mark[: max(prompt, 1)] = False  # nothing precedes the first token, so nothing can predict it
    return Piece(full, marks, prompt, prompt < len(ids[texts.prompt]), texts.label)


def _shared(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the longest common prefix."""
    size = min(len(one), len(other))
    differs = one[:size] != other[:size]
    return int(differs.argmax()) if differs.any() else size

"""The chat template: renders conversations, and says which characters of the text each turn of the assistant added."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mixalign.data.prefix import common_prefix
from mixalign.errors import MixalignError

if TYPE_CHECKING:  # the types import torch, a second for each worker of a pool
    from mixalign.types import Example, Message

__all__ = ["Chat", "Span", "prints_date"]

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
TODAY = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<format>.*?)(?P=quote)\s*\)""")
HALF = re.compile(r"<[^<>\s]*$")
OURS = ("weight",)  # what a message says to us and not to a template

Span = tuple[int, int]
"""The characters from the first to before the second."""


def prints_date(template: Any) -> bool:
    """Whether a chat template, or one of several, writes the day on which it is rendered."""
    return "strftime_now" in json.dumps(template)


class Chat:
    """Renders conversations of one task.

    Args:
        tokenizer: with the chat template.
        where: begins every message.
        variables: of the template; those of a row come before them.
        day: what the template takes for today, `2026-01-31`; None is the day on which it is rendered.
    """

    def __init__(self, tokenizer: Any, where: str, variables: Mapping[str, Any], day: str | None = None) -> None:
        self.tokenizer, self.where, self.variables, self.day = tokenizer, where, dict(variables), day
        self._templates: dict[bool, str] = {}
        self._marks: dict[str, bool] = {}  # template to whether it marks turns: asked for every row

    def render(self, messages: Sequence[Message], example: Example, row: str, generation: bool = False) -> str:
        """The text of a conversation; with `generation` up to where the assistant would answer.

        Raises:
            MixalignError: without a chat template, or when it refuses the row.
        """
        template = self._template(example, row)
        with _Refusals(self.where, row):
            text: str = self.tokenizer.apply_chat_template(
                _theirs(messages),
                chat_template=template,
                tokenize=False,
                add_generation_prompt=generation,
                **self._variables(example),
            )
            return text

    def marked(self, example: Example, row: str) -> bool:
        """Whether the template itself marks the assistant's turns, with `{% generation %}`."""
        template = self._template(example, row)
        if template not in self._marks:
            self._marks[template] = bool(GENERATION.search(template))
        return self._marks[template]

    def render_marked(self, messages: Sequence[Message], example: Example, row: str) -> tuple[str, list[Span]]:
        """The text of a conversation and its marked characters.

        Raises:
            MixalignError: when the template refuses the row.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        template = self._template(example, row)
        with _Refusals(self.where, row):
            rendered: Any = render_jinja_template(
                conversations=[_theirs(messages)],
                chat_template=template,
                return_assistant_tokens_mask=True,
                **{**self.tokenizer.special_tokens_map, **self._variables(example)},
            )
        (text,), (marks,) = rendered
        return text, [(start, end) for start, end in marks if start < end]

    def spans(self, messages: Sequence[Message], turns: Sequence[int], example: Example, row: str) -> Turns:
        """The text of a conversation, and what each of some turns of the assistant added to a generation prompt.

        Args:
            turns: numbers of turns of the assistant, from 0.

        Raises:
            MixalignError: when the template refuses the row.
        """
        text = self.render(messages, example, row)
        return _Search(self, messages, example, row, text).turns(turns)

    @cached_property
    def opening(self) -> str:
        """What a generation prompt adds to a conversation that ends with a user's turn."""
        asked: list[Message] = [{"role": "user", "content": "a"}]
        without = self.render(asked, {}, "a question")
        whole = self.render(asked, {}, "a question", generation=True)
        return whole.removeprefix(without) if whole.startswith(without) else ""

    @cached_property
    def cure(self) -> str:
        """What to do about a template that does not fit."""
        from mixalign.chat.templates import suggest_template, template_text

        template = self.tokenizer.chat_template
        name = suggest_template(template) if isinstance(template, str) else None
        name = None if name and template == template_text(name) else name
        like = f", such as `model.chat_template={name}`" if name else ""
        return f"Set `model.chat_template` to one that writes every text of every turn and keeps it there{like}."

    def _variables(self, example: Example) -> dict[str, Any]:
        return {"tools": example.get("tools"), **self.variables, **example.get("chat_template_kwargs", {})}

    def _template(self, example: Example, row: str) -> str:
        """The text of the template, of which a tokenizer may have another one for tools."""
        has_tools = bool(example.get("tools"))
        if has_tools not in self._templates:
            if self.tokenizer.chat_template is None:
                raise MixalignError(
                    f"{self.where}: {row} is a conversation, but the tokenizer has no chat template. Use the "
                    "tokenizer of a chat model, set `model.chat_template`, or give rows of plain text."
                )
            with _Refusals(self.where, row):
                template = self.tokenizer.get_chat_template(tools=example.get("tools"))
            self._templates[has_tools] = template if self.day is None else self._dated(template, self.day)
        return self._templates[has_tools]

    def _dated(self, template: str, day: str) -> str:
        """The template with a day in place of today: transformers takes no function of ours."""
        today = date.fromisoformat(day)
        text = TODAY.sub(lambda call: json.dumps(today.strftime(call["format"])), template)
        if "strftime_now(" in text:
            raise MixalignError(
                f"{self.where}: the chat template asks for today's date in a format that is not written out, so "
                f"`data.date={day}` cannot be kept. Write `strftime_now('...')` in it, or set `model.chat_template`."
            )
        return text


class _Refusals:
    """Turns what a template raises into a message; a class, as a generator would cost more than short templates."""

    def __init__(self, where: str, row: str) -> None:
        self.where, self.row = where, row

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return
        from jinja2 import TemplateError, TemplateSyntaxError  # the first: also on turns that it does not allow

        if isinstance(error, TemplateSyntaxError):
            raise MixalignError(
                f"{self.where}: the tokenizer's chat template is not valid, line {error.lineno}: {error}. Correct "
                "`tokenizer.chat_template`, or set `model.chat_template`."
            ) from error
        if isinstance(error, TemplateError | TypeError | ValueError | ArithmeticError | LookupError | AttributeError):
            reason = str(error).rstrip(".")
            raise MixalignError(
                f"{self.where}: the chat template refuses {self.row}: {reason}. Correct the row or the template."
            ) from error


def _theirs(messages: Sequence[Message]) -> list[Message]:
    """Messages without what is said to us; the same objects where there is nothing of it."""
    if not any(key in message for message in messages for key in OURS):
        return list(messages)
    return [{key: value for key, value in message.items() if key not in OURS} for message in messages]


class Turns:
    """Where turns of a conversation are in its text.

    Attributes:
        text: of the whole conversation.
        spans: characters of each turn that was asked for, without what opens the turn.
        cut: whether a generation prompt ends in something that the answer lacks, such as an empty thought.
        lost: number of the first turn whose place is not known, as the text before it changes once more turns follow.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.spans: list[Span] = []
        self.cut = False
        self.lost: int | None = None


class _Search:
    """Looks for turns in a text, by rendering beginnings of the conversation.

    A beginning is rendered once for each kind of surroundings, and not for every turn: between the same two texts of
    the same roles, a turn opens and closes at the same places. A long conversation so takes a few short renderings.
    """

    def __init__(self, chat: Chat, messages: Sequence[Message], example: Example, row: str, text: str) -> None:
        self.chat, self.messages, self.example, self.row, self.text = chat, messages, example, row, text
        self.places = list(self._places())  # of what each message says; empty where it is not as it stands
        self.known: dict[tuple[str, ...], int] = {}

    def turns(self, wanted: Sequence[int]) -> Turns:
        found = Turns(self.text)
        for turn in wanted:
            start, end = self._start(turn, found), self._end(turn)
            if start is None or end is None:
                found.lost = turn
                return found
            found.spans.append((start, end))
        return found

    def _places(self) -> Iterator[Span]:
        """The characters of each message's content, one after the other, as far as they stand there unchanged."""
        cursor = 0
        for message in self.messages:
            content = message.get("content")
            body = content.strip() if isinstance(content, str) else ""
            at = self.text.find(body, cursor) if body and "tool_calls" not in message else -1
            if at < 0:
                return
            yield at, (cursor := at + len(body))

    def _start(self, turn: int, found: Turns) -> int | None:
        """Where a turn's answer begins: behind the generation prompt."""
        if turn == 0:
            return self._first()
        if turn >= len(self.places):
            return self._rendered_start(turn, found)
        before, here = self.places[turn - 1][1], self.places[turn][0]
        kind = ("opens", self.messages[turn - 1]["role"], self.text[before:here])
        if kind not in self.known:
            start = self._rendered_start(turn, found)
            if start is None:
                return None
            self.known[kind] = here - start
        return here - self.known[kind]

    def _rendered_start(self, turn: int, found: Turns) -> int | None:
        start = self._render(turn, generation=True)
        if self.text.startswith(start):
            return len(start)
        # the prompt may end in something that a finished turn lacks, such as an empty thought: then the turns before
        # it must match, and the answer begins where the texts part
        before = self._render(turn)
        if not self.text.startswith(before):
            return None
        found.cut = True
        shared = common_prefix(start, self.text)
        half = HALF.search(self.text, len(before), shared)  # `<` of `<think>` and of `<b>` is nothing that both have
        return half.start() if half else shared

    def _first(self) -> int | None:
        """Where the answer of a conversation's first turn begins: nothing was asked, so its opening is looked for."""
        opening = self.chat.opening
        at = self.text.find(opening) if opening else -1
        if at >= 0:
            return at + len(opening)
        return self.places[0][0] if self.places else None

    def _end(self, turn: int) -> int | None:
        """Where a turn ends: with what follows it once it is complete."""
        if turn + 1 == len(self.messages):
            return len(self.text)
        if turn + 1 >= len(self.places):
            return self._rendered_end(turn)
        here, after = self.places[turn][1], self.places[turn + 1][0]
        kind = ("closes", self.messages[turn + 1]["role"], self.text[here:after])
        if kind not in self.known:
            end = self._rendered_end(turn)
            if end is None:
                return None
            self.known[kind] = end - here
        return here + self.known[kind]

    def _rendered_end(self, turn: int) -> int | None:
        end = self._render(turn + 1)
        return len(end) if self.text.startswith(end) else None

    def _render(self, turns: int, generation: bool = False) -> str:
        return self.chat.render(self.messages[:turns], self.example, self.row, generation)

"""Looks at rendered conversations as a reader would: is every text there, and is learned what should be?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixalign.data.tokens.chat import Span
    from mixalign.types import Message

__all__ = ["Rendered", "missing", "problem_of", "unread"]

MARKS = re.compile(r"[\W_]+")  # templates change white space, quotes and the like; letters and digits stay
ASCII_MARKS = bytes(n for n in range(128) if not chr(n).isalnum())
LEAST = 12  # letters and digits of a text that nobody says twice by chance
THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # what messages call them
READ = {"role", "content", "tool_calls", "tool_call_id", "weight", *THOUGHTS}
THOUGHT = "</think>"  # templates leave out thoughts of turns that are over


@dataclass(frozen=True)
class Rendered:
    """A conversation and its text.

    Attributes:
        messages: all turns.
        text: of them.
        spans: turn to its characters that are learned.
        ends: turn to the token ids at the end of its span.
        asked: turns at the beginning that may hold nothing that is learned but those of `spans`; what comes after
            them, an answer of several turns, is learned as a whole.
        tools: that the row has.
    """

    messages: Sequence[Message]
    text: str
    spans: Mapping[int, Span]
    ends: Mapping[int, Sequence[int]]
    asked: int
    tools: Sequence[Any] = ()


def problem_of(seen: Rendered, stops: Mapping[int, str]) -> str | None:
    """What is wrong with a conversation's text or mask, and with which turn; None when nothing is.

    Args:
        stops: id to text of the tokens that can end a turn: special ones, and those added to the vocabulary.
    """
    squeezed, others = _squeeze(seen.text), _others(seen)
    for turn, message in enumerate(seen.messages):
        if lost := _lost(message, squeezed, whole=turn in seen.spans):
            return f"the chat template leaves out {lost} of {_name(turn, message)}"
        if turn in seen.spans and (problem := _of_learned(turn, seen, others, stops)):
            return problem
    names = [str(tool.get("function", tool).get("name", "")) for tool in seen.tools]
    if unsaid := [name for name in names if not _holds(squeezed, name)]:
        return f"the chat template leaves out the tool {unsaid[0]!r} (column `tools`)"
    return None


def unread(seen: Rendered) -> str | None:
    """Which text of which turn neither the template writes nor anybody else reads; None when there is none."""
    squeezed = _squeeze(seen.text)
    for turn, message in enumerate(seen.messages):
        for key in message.keys() - READ:
            if isinstance(message[key], str) and not _holds(squeezed, message[key]):
                return (
                    f"nothing is learned from `{key}` of {_name(turn, message)}, which the chat template does not write"
                )
    return None


def missing(message: Message, text: str) -> str:
    """The first text of a turn that a rendered text lacks, quoted; empty when nothing is missing."""
    return _lost(message, _squeeze(text), whole=True)


def _lost(message: Message, squeezed: str, whole: bool) -> str:
    for what, text in _said(message, whole):
        if not _holds(squeezed, text):
            return f"{_quote(_lost_part(squeezed, text))} ({what})"
    return ""


def _said(message: Message, whole: bool = True) -> Iterator[tuple[str, str]]:
    """Every text of a turn and what it is; without `whole`, as it may be told once the turn is over."""
    content = message.get("content")
    if isinstance(content, str):
        yield "content", content if whole or message["role"] != "assistant" else content.rpartition(THOUGHT)[2]
    if not whole:
        return
    for key in THOUGHTS:
        if isinstance(thought := message.get(key), str):
            yield key, thought
            break
    for call in message.get("tool_calls") or []:
        function = call.get("function", call)
        yield "tool call", str(function.get("name", ""))
        for text in _leaves(function.get("arguments")):
            yield "tool call", text


def _leaves(value: Any) -> Iterator[str]:
    """The names and texts inside JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield str(key)
            yield from _leaves(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _leaves(entry)


def _others(seen: Rendered) -> list[tuple[str, str, str]]:
    """What others than the assistant say in turns of the prompt: letters and digits, the text, and where it stands."""
    said = [
        (_squeeze(text), text, f"({what}) of {_name(turn, message)}")
        for turn, message in enumerate(seen.messages[: seen.asked])
        if message["role"] != "assistant"
        for what, text in _said(message)
    ]
    return [entry for entry in said if len(entry[0]) >= LEAST]


def _of_learned(
    turn: int, seen: Rendered, others: Sequence[tuple[str, str, str]], stops: Mapping[int, str]
) -> str | None:
    """What is wrong with the span of a turn that is learned."""
    message, (start, end) = seen.messages[turn], seen.spans[turn]
    name, span = _name(turn, message), _squeeze(seen.text[start:end])
    if lost := _lost(message, span, whole=True):
        return f"{lost} of {name} is in the text, but is not learned"
    if turn >= seen.asked + 1:  # behind other turns of an answer
        return _end_problem(seen, turn, stops)
    around, answer = span, _squeeze(max((text for _, text in _said(message)), key=len, default=""))
    for _, text in sorted(_said(message), key=lambda entry: -len(entry[1])):
        around = _without(around, text)
    if len(answer) >= LEAST and around.count(answer):
        return f"the answer of {name} is learned twice"
    for short, text, place in others:
        if short in around:
            return f"{_quote(text)} {place} is learned with {name}"
    return _end_problem(seen, turn, stops)


def _end_problem(seen: Rendered, turn: int, stops: Mapping[int, str]) -> str | None:
    """What is wrong with the end of a learned turn: the model has to learn to stop."""
    if any(token in stops for token in seen.ends.get(turn, [])):
        return None
    name, (start, end) = _name(turn, seen.messages[turn]), seen.spans[turn]
    content = seen.messages[turn].get("content")
    body = content.strip() if isinstance(content, str) else ""
    tail = seen.text[start:end].rpartition(body)[2] if body else seen.text[start:end]
    if split := next((text for text in stops.values() if text and text in tail), None):
        return f"{split!r}, which ends {name}, is learned as plain text: the tokenizer splits its special tokens"
    if not tail.strip():
        return f"nothing ends {name}: no stop token is learned, so the model would not learn to stop"
    return None


def _name(turn: int, message: Message) -> str:
    return f"turn {turn + 1}, {message['role']}"


def _squeeze(text: str) -> str:
    if text.isascii():  # ten times as quick
        return text.encode().translate(None, ASCII_MARKS).decode()
    return MARKS.sub("", text)


def _forms(text: str) -> Iterator[str]:
    """The letters and digits of a text as it stands, and as JSON writes it."""
    yield _squeeze(text)
    for plain in (True, False):
        yield _squeeze(json.dumps(text, ensure_ascii=plain))


def _holds(squeezed: str, text: str) -> bool:
    return any(form in squeezed for form in _forms(text))


def _without(squeezed: str, text: str) -> str:
    """The rest, with a mark where a text was taken out once."""
    form = next((form for form in _forms(text) if form and form in squeezed), None)
    return squeezed.replace(form, "|", 1) if form else squeezed


def _lost_part(squeezed: str, text: str) -> str:
    """The part of a text that is not there: without the longest end that is."""
    words = text.split()
    low, high = 0, len(words)  # the end from `high` on is there
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _squeeze(" ".join(words[middle:])) in squeezed else (middle + 1, high)
    return " ".join(words[:high]) if 0 < high < len(words) else text


def _quote(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else text[:57] + "...")

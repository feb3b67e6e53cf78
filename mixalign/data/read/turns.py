"""Conversations: every turn becomes a message with `role` and `content`, whatever its data set calls them."""

import difflib
from collections.abc import Mapping
from typing import Any

from mixalign.data.read.values import show, without_nulls
from mixalign.errors import MixalignError
from mixalign.types import Message

__all__ = ["check_answers", "filled"]

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "observation": "tool",
}  # ShareGPT's speakers to chat roles
KNOWN = ("system", "developer", "user", "assistant", "tool")
KEYS = {"from": "role", "value": "content"}  # ShareGPT's to ours
TEXT_PARTS = ("text", "input_text", "output_text")  # `type` of parts that are text; the last two are OpenAI's


def filled(value: Any, name: str, *, like: Any) -> Any:
    """A text that is not empty where `like` is a text, else a list of messages that is not empty.

    Raises:
        MixalignError: when it is of the other kind or empty, or a message cannot be read.
    """
    kind = "a text" if isinstance(like, str) else "a list of messages"
    if isinstance(value, Mapping):
        value = [value]  # LLaMA-Factory writes a single answer as one message
    if isinstance(value, str) is not isinstance(like, str) or not isinstance(value, str | list | tuple):
        raise MixalignError(f"`{name}` is {show(value)}, but here it must be {kind}.")
    if not value:
        raise MixalignError(f"`{name}` is empty, but must be {kind} to learn from. Remove the row or fill it.")
    return value if isinstance(value, str) else [_message(turn, name, i) for i, turn in enumerate(value, 1)]


def check_answers(answers: Mapping[str, Any]) -> None:
    """An answer in the form of turns has one of the assistant, which is what is learned.

    Raises:
        MixalignError: when one has none; it names the answer and the roles.
    """
    for name, answer in answers.items():
        if isinstance(answer, list) and all(turn["role"] != "assistant" for turn in answer):
            roles = ", ".join(turn["role"] for turn in answer)
            raise MixalignError(f"`{name}` has no turn of the role `assistant`; its turns are of {roles}. Correct it.")


def _message(turn: Any, name: str, number: int) -> Message:
    """One turn with `role` and a text as `content`; ShareGPT's keys are renamed, nulls left out."""
    where = f"turn {number} of `{name}`"
    if not isinstance(turn, Mapping):
        raise MixalignError(f"{where} is {show(turn)}, but must be an object with `role` and `content`.")
    message: Message = {KEYS.get(key, key): value for key, value in without_nulls(turn).items()}
    if not isinstance(message.get("role"), str) or not message["role"]:
        raise MixalignError(f"{where} has no `role`: {show(message)}. It wants user, assistant, system or tool.")
    message["role"] = _role(message["role"], where)
    if "content" in message or "tool_calls" not in message:
        message["content"] = _text(message.get("content"), where)
    return message


def _role(name: str, where: str) -> str:
    role = ROLES.get(name, name)
    if role not in KNOWN:
        raise MixalignError(
            f"{where} has the role {name!r}.{_near(name)} Known are {', '.join(KNOWN)}, and ShareGPT's "
            f"{', '.join(ROLES)}. Correct it, or remove the row."
        )
    return role


def _near(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), (*KNOWN, *ROLES), n=1)
    return f" Did you mean `{close[0]}`?" if close else ""


def _text(content: Any, where: str) -> str:
    """A message's text; parts of text are put together as they are."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise MixalignError(f"{where} has `content` {show(content)}, but it must be a text.")
    return "".join(_part(part, f"part {number} of {where}") for number, part in enumerate(content, 1))


def _part(part: Any, where: str) -> str:
    """The text of a part, such as {"type": "text", "text": "cat"}."""
    if not isinstance(part, Mapping):
        raise MixalignError(
            f'{where} is {show(part)}, but must be an object such as {{"type": "text", "text": "..."}}.'
        )
    kind = part.get("type", "text" if set(part) == {"text"} else None)
    if kind not in TEXT_PARTS:
        raise MixalignError(
            f"{where} is of the type {kind!r}, but only text is learned from: images, audio, video and files are not "
            "read. Remove the part or the row."
        )
    if not isinstance(part.get("text"), str):
        raise MixalignError(f"{where} has `text` {show(part.get('text'))}, but it must be a text.")
    text: str = part["text"]
    return text

"""Conversations: every turn becomes a message with `role` and `content`, whatever its data set calls them."""

import difflib
from collections.abc import Mapping
from typing import Any

from mixalign.data.read.columns import is_media
from mixalign.data.read.tools import tool_calls
from mixalign.data.read.values import Row, is_empty, read_json, show, without_nulls
from mixalign.errors import MixalignError
from mixalign.types import Message

__all__ = ["check_answers", "conversation", "filled", "last_answer", "settle_weights", "with_front"]

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
MASKS = ("trainable", "trained", "learn", "label", "mask", "masked", "supervised")  # read nowhere
WEIGHTS = ("weight", "train", "loss")  # OpenAI's, axolotl's and ms-swift's
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


def conversation(value: Any, name: str) -> list[Message]:
    """Messages, also as JSON text, as tables write them.

    Raises:
        MixalignError: see `filled`.
    """
    parsed = read_json(value) if isinstance(value, str) else None
    turns: list[Message] = filled(parsed if isinstance(parsed, list | Mapping) else value, name, like=[])
    return turns


def last_answer(turns: list[Message], name: str) -> tuple[list[Message], list[Message]]:
    """What comes before the assistant's last turns, and these.

    Raises:
        MixalignError: when either is missing.
    """
    start = len(turns)
    while start and turns[start - 1]["role"] == "assistant":
        start -= 1
    if start in (0, len(turns)):
        lacking = "no turn before the assistant's" if turns[-1]["role"] == "assistant" else "no answer at its end"
        raise MixalignError(f"`{name}` has {lacking}, but here the assistant's last turn is the answer. Correct it.")
    return turns[:start], turns[start:]


def with_front(turns: list[Message], fields: Row) -> list[Message]:
    """The turns behind those of a row's `system` (a text) and `history` (`[[user, assistant], ...]`).

    Raises:
        MixalignError: when these are something else, or the turns begin with another system prompt.
    """
    front = [turn for turn in turns[:1] if turn["role"] in ("system", "developer")]
    rest = turns[len(front) :]
    system, history = fields.get("system"), fields.get("history")
    if not is_empty(system):
        if not isinstance(system, str):
            raise MixalignError(f"`system` is {show(system)}, but must be a text.")
        if front and front[0].get("content") != system:
            raise MixalignError(
                f"`system` is {show(system)}, but the turns begin with another system prompt, "
                f"{show(front[0].get('content'))}. Keep one, or declare `columns: {{system: null}}`."
            )
        front = front or [{"role": "system", "content": system}]
    return front + ([] if is_empty(history) else _history(history)) + rest


def _history(value: Any) -> list[Message]:
    found = read_json(value) if isinstance(value, str) else value
    if isinstance(found, list) and found and all(isinstance(turn, Mapping) for turn in found):
        return conversation(found, "history")
    turns: list[Message] = []
    for number, pair in enumerate(found if isinstance(found, list | tuple) else [found], 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise MixalignError(
                f"entry {number} of `history` is {show(pair)}, but must be two texts, of the user and of the assistant."
            )
        turns += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)]
    return turns


def settle_weights(example: Any) -> None:
    """Takes the weights of turns out of prompts, which are never learned, and of answers, which are.

    Raises:
        MixalignError: for a turn of weight 0 in an answer.
    """
    for name in ("prompt", "completion", "chosen", "rejected"):
        turns = example.get(name)
        for number, turn in enumerate(turns if isinstance(turns, list) else [], 1):
            if turn.pop("weight", 1) == 0 and name != "prompt":
                raise MixalignError(
                    f"turn {number} of `{name}` has the weight 0, but an answer is learned whole. Give the "
                    "conversation as `messages`, where each turn may have a weight."
                )


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
    if len(turn) == 2 and turn.get("role") in KNOWN and isinstance(turn.get("content"), str):
        return dict(turn)  # nearly all are so
    message: Message = {KEYS.get(key, key): value for key, value in without_nulls(turn).items()}
    if not isinstance(message.get("role"), str) or not message["role"]:
        raise MixalignError(f"{where} has no `role`: {show(message)}. It wants user, assistant, system or tool.")
    called = message["role"]
    message["role"] = _role(called, where)
    for key, cell in message.items():
        if is_media(key, cell):
            raise MixalignError(
                f"{where} has `{key}` {show(cell)}, but only text is learned from. Remove it or the row."
            )
    if called == "function_call":
        message |= {"content": "", "tool_calls": tool_calls(message.get("content"), f"the text of {where}")}
    elif "function_call" in message:  # OpenAI's, before it had several calls
        message["tool_calls"] = tool_calls(message.pop("function_call"), f"`function_call` of {where}")
    elif "tool_calls" in message:
        message["tool_calls"] = tool_calls(message["tool_calls"], f"`tool_calls` of {where}")
    _normalise_weight(message, where)
    if "content" in message or "tool_calls" not in message:
        message["content"] = _text(message.get("content"), where)
    return message


def _normalise_weight(message: Message, where: str) -> None:
    """`weight`, `train` and `loss` of a turn become one `weight` of 0 or 1: whether it is learned."""
    given = {key: message.pop(key) for key in WEIGHTS if key in message}
    if "train_detail" in message:
        raise MixalignError(f"{where} has `train_detail`, but a turn is learned whole or not at all: `weight` 0 or 1.")
    if other := next((key for key in MASKS if message.get(key) in (0, 1)), None):
        raise MixalignError(f"{where} has `{other}`, which nobody reads. Whether a turn is learned, `train` says.")
    if message.get("refusal"):
        raise MixalignError(f"{where} has a `refusal`, which no template writes. Put its text into `content`.")
    for key, value in given.items():
        if not isinstance(value, int | float) or value not in (0, 1):
            raise MixalignError(
                f"{where} has `{key}` {show(value)}, but must be 1 (or true: learned) or 0 (or false: not learned)."
            )
    weights = {int(value) for value in given.values()}
    if len(weights) > 1:
        raise MixalignError(f"{where} has {given}, which say the opposite of each other. Keep one.")
    if weights and message["role"] == "assistant":
        message["weight"] = weights.pop()
    elif 1 in weights:
        raise MixalignError(
            f"{where} is of the role {message['role']} and has {given}, but only the assistant's turns are learned. "
            "Remove it."
        )


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

"""Prompts of a user's own, as token ids: rendered as the run rendered those that it was trained on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mixalign.data.prompts import end_tokens, some_prompts
from mixalign.data.tokens.chat import Chat
from mixalign.data.tokens.tokenise import tokenise
from mixalign.errors import MixalignError
from mixalign.types import Message

__all__ = ["Asked", "Renderer", "read_prompts"]

Asked = str | list[Message]
"""A text to go on from, or a conversation to answer."""
LONG = 1 << 20  # tokens; no row of ours is cut


@dataclass
class Renderer:
    """Makes token ids of prompts.

    Attributes:
        tokenizer: that the model was trained with.
        is_chat: whether a plain prompt is a user's turn, as it is where the rows of the run were conversations.
        variables: of the chat template.
        day: what the template takes for today; None: the day on which it is rendered.
        plain: tasks of plain text beside those of conversations, as which prompts are rendered.
        differing: tasks whose variables of the template differ, so that none of these are used.
    """

    tokenizer: Any
    is_chat: bool
    variables: Mapping[str, Any] = field(default_factory=dict)
    day: str | None = None
    plain: Sequence[str] = ()
    differing: Sequence[str] = ()

    def note(self) -> str:
        """What of the run's tasks prompts are not rendered as; empty where there is one way."""
        said = []
        if self.plain:
            said.append(
                f"Prompts go through the chat template; rows of {_names(self.plain)} did not: to ask as they were "
                f"trained, --task {self.plain[0]}."
            )
        if self.differing:
            said.append(
                f"{_names(self.differing)} have different `chat_template_kwargs`, and none of them are used: to ask as "
                f"one of them was trained, --task {self.differing[0]}."
            )
        return " ".join(said)

    def conversation(self, asked: Asked) -> Asked:
        """The prompt as a conversation, where a plain one is a user's turn."""
        return [{"role": "user", "content": asked}] if self.is_chat and isinstance(asked, str) else asked

    def ids(self, asked: Asked) -> np.ndarray:
        """int32 (T,): as training has them before what is learned.

        Raises:
            MixalignError: for a conversation without a chat template, and what the template refuses.
        """
        asked = self.conversation(asked)
        if isinstance(asked, str):
            found = self.tokenizer(asked)["input_ids"]
            return np.array(found[:-1] if found[-1:] == [self.tokenizer.eos_token_id] else found, np.int32)
        chat = Chat(self.tokenizer, "--prompts", self.variables, self.day)
        text = chat.render(asked, {}, "a prompt", generation=True)
        return np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def ends(self) -> list[int]:
        """Tokens at which an answer ends: those that end a turn of the template, and the end of the text."""
        found = {self.tokenizer.eos_token_id} - {None}
        if self.tokenizer.chat_template is not None:
            answer: Any = [{"role": "assistant", "content": "a"}]
            row: Any = {"prompt": [{"role": "user", "content": "a"}], "completion": answer}
            options: dict[str, Any] = {"chat_template_kwargs": self.variables, "day": self.day}
            table, _ = tokenise([row], self.tokenizer, task="chat", form="supervised", max_length=LONG, **options)
            found |= set(end_tokens(some_prompts(table, 1, 0), self.tokenizer))
        return sorted(found)


def _names(tasks: Sequence[str]) -> str:
    return ", ".join(f"`{task}`" for task in tasks)


def read_prompts(path: Path) -> list[Asked]:
    """The prompts of a file: a line each of a text file; of JSON lines the `prompt` or `messages` of each object.

    The last turn of `messages` is left out where it is the assistant's: it is what is asked for.

    Raises:
        MixalignError: naming the line that has none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MixalignError(f"--prompts {path} cannot be read: {error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise MixalignError(f"--prompts {path} has no line. Give a text file with a prompt a line, or JSON lines.")
    if path.suffix not in (".jsonl", ".json"):
        return [line for _, line in numbered]
    return [_asked(line, f"--prompts {path}, line {number},") for number, line in numbered]


def _asked(line: str, where: str) -> Asked:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise MixalignError(f"{where} is not valid JSON: {error}. Each line is an object.") from error
    keys = [*row] if isinstance(row, dict) else []
    found = row.get("prompt", row.get("messages")) if keys else row
    if isinstance(found, list) and found and isinstance(found[-1], dict) and found[-1].get("role") == "assistant":
        found = found[:-1]
    is_conversation = isinstance(found, list) and all(isinstance(m, dict) and m.get("role") for m in found)
    if not found or not (isinstance(found, str) or is_conversation):
        has = f"has {', '.join(map(str, keys)) or 'no key'}" if isinstance(row, dict) else f"is a {type(row).__name__}"
        raise MixalignError(f"{where} {has}. It needs a `prompt`, a text or a list of messages, or `messages`.")
    asked: Asked = found
    return asked

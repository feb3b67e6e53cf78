"""What has to be tokenised for a row: its texts, and which of their characters are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mixalign.data.tokens.chat import Chat, Span
from mixalign.data.tokens.chunk import Piece
from mixalign.data.tokens.look import missing
from mixalign.errors import MixalignError

if TYPE_CHECKING:  # the types import torch, a second for each worker of a pool
    from mixalign.types import Example, Message

__all__ = ["ANSWERS", "TRAIN_ON", "Planner", "ReadOptions", "Texts"]

ANSWERS = ("completion", "chosen")  # what a supervised row learns; a row has one of them
TRAIN_ON = ("assistant", "last", "all")  # every turn of the assistant, the last one, every token


@dataclass(frozen=True)
class ReadOptions:
    """How the rows of a task are read.

    Attributes:
        form: what the objective needs, see `Form`.
        max_length: tokens of prompt and completion.
        variables: of the chat template; those of a row come before them.
        train_on: `assistant` learns the assistant's turns, `last` the last one of them, `all` every token.
        day: what the chat template takes for today, `2026-01-31`; None is the day on which it renders.
        on_lost_text: of the first conversations, and of one in 64 of the others, every text has to be rendered, what
            the assistant says learned with a token that ends the turn, and nothing else: `raise` refuses rows where
            that is not so, `warn` counts them.
    """

    form: str
    max_length: int
    variables: Mapping[str, Any] = field(default_factory=dict)
    train_on: str = "assistant"
    day: str | None = None
    on_lost_text: str = "raise"


@dataclass(frozen=True)
class Texts:
    """What has to be tokenised for one row.

    Attributes:
        prompt: the tokens of which are not learned; not looked at where `learned` is given.
        full: prompt and completion, S times.
        templated: whether a chat template wrote them.
        talks: the turns of each full text; none for plain text, and where every token is learned.
        asked: turns of the prompt; those after it are learned as a whole.
        tools: that the template was given.
        learned: turn to its characters that are learned; None: everything after the prompt.
        label: of an unpaired row.
        weight: of the row inside its task.
        cut: whether a generation prompt ends in what the answer lacks.
    """

    prompt: str
    full: list[str]
    templated: bool = False
    talks: list[list[Message]] = field(default_factory=list)
    asked: int = 0
    learned: dict[int, Span] | None = None
    label: bool | None = None
    weight: float | None = None
    tools: Sequence[Any] = ()
    cut: bool = False


class Planner:
    """Renders rows of one task.

    Args:
        chat: its chat template.
        eos: text of the token that ends a plain answer.
        where: begins every message.
    """

    def __init__(self, chat: Chat, eos: str | None, where: str, options: ReadOptions) -> None:
        self.chat, self.eos, self.where, self.options = chat, eos, where, options

    def plan(self, example: Example, row: str) -> Texts | Piece:
        """The texts of a row; a row that came with its tokens is ready.

        Raises:
            MixalignError: when the objective cannot learn from it, or its template does not show what is learned.
        """
        self._check_form(example, row)
        if "input_ids" in example or "prompt_ids" in example:
            return _given(example)
        names = ("chosen", "rejected") if self.options.form == "preference" else ANSWERS
        answers: list[Any] = [example[name] for name in names if name in example]  # type: ignore[literal-required]
        kept: dict[str, Any] = {"label": example.get("label"), "weight": example.get("weight")}
        kept["tools"] = example.get("tools") or ()
        if "messages" in example:
            return self._conversation(example["messages"], 0, example, row, kept)
        prompt: Any = example["prompt"]
        if isinstance(prompt, str):
            full = [prompt + self._ended(answer) for answer in answers]
            return Texts("" if self.options.train_on == "all" else prompt, full, **kept)
        talks: list[list[Message]] = [[*prompt, *answer] for answer in answers]
        if self.options.train_on == "all" or (self.options.train_on == "last" and len(talks[0]) > len(prompt) + 1):
            return self._conversation(talks[0], len(prompt), example, row, kept)
        asked = self.chat.render(prompt, example, row, generation=True)
        full = [self.chat.render(talk, example, row) for talk in talks]
        for text in full:
            self._check_prompt(prompt, asked, text, row)
        return Texts(asked, full, True, talks, len(prompt), **kept)

    def _ended(self, completion: str) -> str:
        if not self.eos:
            raise MixalignError(
                f"{self.where}: the tokenizer has no EOS token, so the model could not learn where an answer "
                "ends. Set `tokenizer.eos_token` and save the tokenizer with the model."
            )
        return completion if completion.endswith(self.eos) else completion + self.eos

    def _check_prompt(self, prompt: Sequence[Message], asked: str, text: str, row: str) -> None:
        """Refuses a prompt that is rendered otherwise once an answer follows, but for what asks for the answer."""
        if text.startswith(asked):
            return
        last = next((t.get("content") for t in reversed(prompt) if t["role"] != "assistant"), None)
        body = last.strip() if isinstance(last, str) else ""
        if body and (at := asked.rfind(body)) >= 0 and not text.startswith(asked[: at + len(body)]):
            raise self._moved(prompt, text, f"the prompt of {row} differently once the answer follows", "the answer")

    def _conversation(
        self, messages: list[Message], first: int, example: Example, row: str, kept: dict[str, Any]
    ) -> Texts:
        """A conversation of which the assistant's turns, from number `first` on, are learned."""
        if self.options.train_on == "all":
            return Texts("", [self.chat.render(messages, example, row)], True, **kept)
        answers = [n for n, turn in enumerate(messages) if n >= first and turn["role"] == "assistant"]
        wanted = [n for n in answers if messages[n].get("weight", 1)]
        wanted = wanted[-1:] if self.options.train_on == "last" else wanted
        kept |= {"talks": [messages], "asked": len(messages)}
        if self.chat.marked(example, row):
            text, marks = self.chat.render_marked(messages, example, row)
            owners = self._owners(messages, text, marks, wanted, row)
            learned = {n: span for n, span in zip(owners, marks, strict=True) if n in wanted or n < 0}
            return Texts("", [text], True, learned=learned, **kept)
        found = self.chat.spans(messages, wanted, example, row)
        if found.lost is not None:
            what = f"the beginning of {row} differently once more turns follow"
            others = (
                " Or to one with {% generation %} around the assistant's turns; or learn the last turn only "
                "(`train_on: last`); or give rows with `prompt` and `completion`."
            )
            raise self._moved(messages, found.text, what, f"turn {found.lost + 1}", others)
        spans = dict(zip(wanted, found.spans, strict=True))
        return Texts("", [found.text], True, learned=spans, cut=found.cut, **kept)

    def _owners(self, messages: list[Message], text: str, marks: list[Span], wanted: list[int], row: str) -> list[int]:
        """The turn of each part that the template marks as the assistant's; below 0 where it cannot be told."""
        turns = [n for n, turn in enumerate(messages) if turn["role"] == "assistant"]
        if len(marks) == len(turns):
            return turns
        owners, left = [], turns
        for number, (start, end) in enumerate(marks):
            owner = next((n for n in left if not missing(messages[n], text[start:end])), -1 - number)
            left = [n for n in left if n > owner]
            owners.append(owner)
        if min(owners, default=0) < 0 and wanted != turns:
            raise MixalignError(
                f"{self.where}: the chat template marks {len(marks)} parts of {row} as the assistant's, which cannot "
                f"be matched with its {len(turns)} turns, and not all of them are to be learned. {self.chat.cure}"
            )
        return owners

    def _moved(self, messages: Sequence[Message], text: str, what: str, place: str, others: str = "") -> MixalignError:
        lost = next((f" It loses {words}." for turn in messages if (words := missing(turn, text))), "")
        return MixalignError(
            f"{self.where}: the chat template renders {what}, so the tokens of {place} cannot be found.{lost} "
            f"{self.chat.cure}{others}"
        )

    def _check_form(self, example: Example, row: str) -> None:
        """Refuses a row that the objective cannot learn from."""
        form, pair = self.options.form, "chosen" in example or "chosen_ids" in example
        if form == "preference" and not pair:
            raise MixalignError(
                f"{self.where}: {row} has no `chosen` and `rejected`, but objective=dpo needs preference "
                "rows. Give the task such rows, or train with objective=sft."
            )
        if form == "supervised" and "label" in example:
            raise MixalignError(
                f"{self.where}: {row} is an unpaired preference (prompt, completion and a `label` of true or false), "
                "which objective=sft does not learn from. Train with objective=kto; or keep the rows labelled true, "
                "and say `columns: {label: null}`."
            )
        if form in ("unpaired", "mismatched") and "label" not in example:
            raise MixalignError(
                f"{self.where}: {row} has no `label` of true or false beside `prompt` and `completion`, but "
                "objective=kto needs one, or pairs with `chosen` and `rejected`. Give such rows, or train with "
                "objective=sft."
            )


def _given(example: Example) -> Piece:
    """The piece of a row that came with its tokens."""
    weight = example.get("weight")
    if "input_ids" in example:
        ids, mark = np.array(example["input_ids"], np.int32), np.array(example["supervised"], bool)
        mark[:1] = False  # nothing precedes the first token, so nothing can predict it
        return Piece([ids], [mark], int(mark.argmax()) if mark.any() else len(ids), False, weight=weight)
    prompt = np.array(example["prompt_ids"], np.int32)
    answers = [np.array(ids, np.int32) for ids in (example["chosen_ids"], example["rejected_ids"])]
    full = [np.concatenate([prompt, answer]) for answer in answers]
    marks = [np.arange(len(one)) >= max(len(prompt), 1) for one in full]
    return Piece(full, marks, len(prompt), False, weight=weight)

"""Pairs as other programs write them: ms-swift, OpenAI's preference tuning and NeMo."""

from collections.abc import Mapping
from typing import Any

from mixalign.data.read.pairs import implicit, without_prompt
from mixalign.data.read.tools import read_tools
from mixalign.data.read.turns import conversation, filled, last_answer
from mixalign.data.read.values import Row, read_json, show
from mixalign.errors import MixalignError
from mixalign.types import Example

__all__ = ["nemo_pair", "openai_pair", "swift_conversations", "swift_pair"]

PAIR = ("chosen", "rejected")


def swift_pair(fields: Row) -> Example:
    """ms-swift's: `messages` end with the better answer, and `rejected_response` is the other, a text or turns."""
    prompt, chosen = last_answer(conversation(fields["messages"], "messages"), "messages")
    rejected = fields["rejected_response"]
    if isinstance(rejected, str) and rejected:
        rejected = [{"role": "assistant", "content": rejected}]
    rejected = filled(rejected, "rejected_response", like=[])
    return Example(prompt=prompt, chosen=chosen, rejected=rejected)


def swift_conversations(fields: Row) -> Example:
    """ms-swift's other form: two whole conversations."""
    names = {"chosen": "messages", "rejected": "rejected_messages"}
    return implicit({ours: conversation(fields[theirs], theirs) for ours, theirs in names.items()})


def openai_pair(fields: Row) -> Example:
    """OpenAI's: `input` with `messages` and maybe `tools`, and two lists of messages."""
    given = fields["input"]
    given = read_json(given) if isinstance(given, str) else given
    if not isinstance(given, Mapping) or "messages" not in given:
        raise MixalignError(f"`input` is {show(fields['input'])}, but must be an object with `messages`.")
    example = Example(
        prompt=conversation(given["messages"], "input.messages"),
        chosen=conversation(fields["preferred_output"], "preferred_output"),
        rejected=conversation(fields["non_preferred_output"], "non_preferred_output"),
    )
    if given.get("tools"):
        example["tools"] = read_tools(given["tools"])
    return without_prompt(example, PAIR)


def nemo_pair(fields: Row) -> Example:
    """NeMo's: `context`, and ranked answers of which the best (rank 0) and the worst are taken."""
    prompt = conversation(fields["context"], "context")
    answers = fields["completions"]
    answers = read_json(answers) if isinstance(answers, str) else answers
    if not isinstance(answers, list | tuple) or len(answers) < 2:
        raise MixalignError(f"`completions` is {show(answers)}, but must be a list of two answers or more.")
    ranks = [_rank(answer, number) for number, answer in enumerate(answers, 1)]
    best, worst = ranks.index(min(ranks)), ranks.index(max(ranks))
    if ranks[best] == ranks[worst]:
        raise MixalignError(f"all `completions` have the rank {ranks[best]}, so none is better. Rank them: 0 is best.")
    chosen, rejected = (
        conversation(answers[place].get("completion"), f"completions[{place}]") for place in (best, worst)
    )
    return without_prompt(Example(prompt=prompt, chosen=chosen, rejected=rejected), PAIR)


def _rank(answer: Any, number: int) -> float:
    rank = answer.get("rank") if isinstance(answer, Mapping) else None
    if isinstance(rank, bool) or not isinstance(rank, int | float) or rank != rank:
        raise MixalignError(
            f"entry {number} of `completions` is {show(answer)}, but must be an object with `completion` and `rank`, a "
            "number of which 0 is best."
        )
    return rank

"""Pairs as other programs and data sets write them: ms-swift, OpenAI's preference tuning, NeMo, and rated answers."""

from collections.abc import Mapping
from typing import Any

from mixalign.data.read.alpaca import alpaca_chat_pair, alpaca_pair
from mixalign.data.read.pairs import implicit, without_prompt
from mixalign.data.read.tools import read_tools
from mixalign.data.read.turns import conversation, filled, last_answer
from mixalign.data.read.values import Row, read_json, show
from mixalign.errors import MixalignError
from mixalign.types import Example, Message

__all__ = [
    "compared_pair",
    "nemo_pair",
    "openai_pair",
    "rated_conversation",
    "rated_pair",
    "rated_pair_chat",
    "swift_conversations",
    "swift_pair",
]

PAIR = ("chosen", "rejected")
MARK = "<extra_id_1>"  # before a turn in the prompts of HelpSteer2
SPEAKERS = {"User": "user", "Assistant": "assistant"}


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


def rated_pair(fields: Row) -> Example:
    """PKU-SafeRLHF's: a question, two answers, and the number of the better one; as text under headings."""
    return alpaca_pair(_by_number(fields))


def rated_pair_chat(fields: Row) -> Example:
    """The same as a conversation."""
    return alpaca_chat_pair(_by_number(fields))


def _by_number(fields: Row) -> Row:
    better = fields["better_response_id"]
    if isinstance(better, bool) or better not in (0, 1):
        raise MixalignError(f"`better_response_id` is {show(better)}, but is the number of the better answer: 0 or 1.")
    answers = fields["response_0"], fields["response_1"]
    return {"instruction": fields["prompt"], "chosen": answers[int(better)], "rejected": answers[1 - int(better)]}


def rated_conversation(fields: Row) -> Example:
    """HelpSteer3's: `context`, two answers, and a preference: below 0 for the first, above 0 for the second."""
    chosen, rejected = _compared(fields, ("response1", "response2"), "overall_preference")
    return Example(prompt=conversation(fields["context"], "context"), chosen=chosen, rejected=rejected)


def compared_pair(fields: Row) -> Example:
    """HelpSteer2's: a prompt as one text with marks between its turns, two answers, and a verdict as HelpSteer3's."""
    chosen, rejected = _compared(fields, ("response_1", "response_2"), "preference_strength")
    return Example(prompt=_marked_turns(fields["prompt"]), chosen=chosen, rejected=rejected)


def _compared(fields: Row, names: tuple[str, str], verdict_name: str) -> tuple[list[Message], list[Message]]:
    """The better and the other answer, as turns."""
    verdict = fields[verdict_name]
    if isinstance(verdict, bool) or not isinstance(verdict, int | float) or verdict != verdict:
        raise MixalignError(f"`{verdict_name}` is {show(verdict)}, but must be a number: below 0 for `{names[0]}`.")
    if verdict == 0:
        raise MixalignError(f"`{verdict_name}` is 0: neither answer is better. Leave the row out.")
    first, second = ([{"role": "assistant", "content": filled(fields[name], name, like="")}] for name in names)
    return (first, second) if verdict < 0 else (second, first)


def _marked_turns(prompt: Any) -> list[Message]:
    """The turns of a text that begins with the user's, and names the speaker behind the mark of each further one."""
    first, *further = filled(prompt, "prompt", like="").split(MARK)
    turns = [{"role": "user", "content": first}]
    for number, text in enumerate(further, 2):
        speaker, line_break, content = text.partition("\n")
        if speaker not in SPEAKERS or not line_break:
            raise MixalignError(
                f"turn {number} of `prompt` is {show(text)}, but {MARK} wants a line with {' or '.join(SPEAKERS)}."
            )
        turns.append({"role": SPEAKERS[speaker], "content": content})
    for number, turn in enumerate(turns, 1):
        turn["content"] = turn["content"].strip("\n")
        if not turn["content"]:
            raise MixalignError(f"turn {number} of `prompt` is empty. Remove the row or fill it.")
    if turns[-1]["role"] != "user":
        raise MixalignError(f"the last turn of `prompt` is not the user's: {show(turns[-1]['content'])}. Correct it.")
    return turns


def _rank(answer: Any, number: int) -> float:
    rank = answer.get("rank") if isinstance(answer, Mapping) else None
    if isinstance(rank, bool) or not isinstance(rank, int | float) or rank != rank:
        raise MixalignError(
            f"entry {number} of `completions` is {show(answer)}, but must be an object with `completion` and `rank`, a "
            "number of which 0 is best."
        )
    return rank

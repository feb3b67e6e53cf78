"""Pairs of answers: with a prompt of their own, or with the prompt as what both begin with."""

from collections.abc import Mapping, Sequence
from typing import Any

from mixalign.data.read.turns import filled
from mixalign.data.read.values import Row, show
from mixalign.errors import MixalignError
from mixalign.types import Example, Message

__all__ = ["common_prefix", "explicit", "implicit", "pair", "read_prompt", "sharegpt_pair"]

HH_TURN = "\n\nAssistant:"  # ends the prompt in the dialogues of HH-RLHF (arXiv 2204.05862)


def common_prefix(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Length of the longest common prefix of two strings or two lists, by bisection over slices."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def pair(fields: Row, prompt: Any) -> Example:
    """The two answers, in the form that the prompt has."""
    chosen, rejected = (filled(fields[name], name, like=prompt) for name in ("chosen", "rejected"))
    return Example(prompt=prompt, chosen=chosen, rejected=rejected)


def read_prompt(value: Any) -> str | list[Message]:
    """A text, which may be empty, or messages."""
    if not isinstance(value, str | list | tuple | Mapping):
        raise MixalignError(f"`prompt` is {show(value)}, but must be a text or a list of messages.")
    return value if isinstance(value, str) else filled(value, "prompt", like=[])


def explicit(fields: Row) -> Example:
    """`prompt`, `chosen` and `rejected`."""
    if isinstance(fields["prompt"], str) and not isinstance(fields["chosen"], str):
        return _repeated_prompt(fields)
    return pair(fields, read_prompt(fields["prompt"]))


def _repeated_prompt(fields: Row) -> Example:
    """UltraFeedback's form: the prompt as a text, and again as a turn of both conversations."""
    example = implicit(fields)
    if not isinstance(example["prompt"], list) or example["prompt"][-1].get("content") != fields["prompt"]:
        raise MixalignError(
            "`prompt` is a text, but `chosen` and `rejected` are conversations that do not both begin with "
            "it. Give all three as texts, or all three as lists of messages."
        )
    return example


def implicit(fields: Row) -> Example:
    """Full texts or full conversations; what they share is the prompt."""
    both = pair(fields, fields["chosen"])
    chosen, rejected = both["chosen"], both["rejected"]
    cut = common_prefix(chosen, rejected)
    if cut == min(len(chosen), len(rejected)):
        cut -= 1  # one continues the other: TRL's `extract_prompt` leaves the last shared item to both
    elif isinstance(chosen, str) and chosen[max(cut - 1, 0) : cut] == " ":
        cut -= 1  # the space belongs to the completion's first token
    if isinstance(chosen, str) and (turn := chosen.rfind(HH_TURN, 0, common_prefix(chosen, rejected))) >= 0:
        cut = turn + len(HH_TURN)
    if isinstance(chosen, list) and cut == 0:
        raise MixalignError("`chosen` and `rejected` share no first turn, so there is no prompt. Add a `prompt`.")
    return Example(prompt=chosen[:cut], chosen=chosen[cut:], rejected=rejected[cut:])


def sharegpt_pair(fields: Row) -> Example:
    """LLaMA-Factory's: the prompt as `conversations`, and two answers."""
    return pair(fields, filled(fields["conversations"], "conversations", like=[]))

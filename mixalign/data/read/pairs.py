"""Pairs of answers: with a prompt of their own, or with the prompt as what both begin with."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mixalign.data.prefix import common_prefix
from mixalign.data.read.turns import check_answers, conversation, filled
from mixalign.data.read.values import Row, is_empty, show
from mixalign.errors import MixalignError
from mixalign.types import Example, Message

__all__ = [
    "HH_TURN",
    "QUESTIONS",
    "explicit",
    "implicit",
    "pair",
    "read_prompt",
    "refuse_question",
    "sharegpt_pair",
    "without_prompt",
]

LONG = 20  # characters of a prompt with which no two answers begin by chance
QUESTIONS = {
    "question", "query", "input", "inputs", "instruction", "context", "problem", "request", "task", "user", "human",
    "user_input", "user_prompt", "message",
}  # fmt: skip
HH_TURN = "\n\nAssistant:"  # ends the prompt in the dialogues of HH-RLHF (arXiv 2204.05862)


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
    example = pair(fields, read_prompt(fields["prompt"]))
    return without_prompt(example, ("chosen", "rejected"))


def without_prompt(example: Example, names: Sequence[str]) -> Example:
    """The example with a prompt that the answers repeat taken out of them.

    Turns are compared whole, so an answer that begins with those of the prompt repeats them. A text may begin with
    the words of a short prompt by chance: only a long prompt in front of all answers is a repeated one.

    Raises:
        MixalignError: for texts that repeat the prompt, and for conversations of which only one does.
    """
    prompt: Any = example["prompt"]
    answers: dict[str, Any] = {name: example[name] for name in names}  # type: ignore[literal-required]
    check_answers(answers)
    holders = [name for name, answer in answers.items() if answer[: len(prompt)] == prompt]
    if isinstance(prompt, str):
        if len(prompt) >= LONG and len(holders) == len(names) > 1:
            raise MixalignError(
                "`chosen` and `rejected` both begin with `prompt`, which would then be there twice. Cut it off, or "
                "declare `columns: {prompt: null}`: what both share is the prompt then."
            )
    elif holders and len(holders) < len(names):
        raise MixalignError(
            f"`{holders[0]}` begins with the turns of `prompt`, and the other answer does not. Give both with the "
            "prompt, or both without it."
        )
    else:
        for name in holders:
            if len(answers[name]) == len(prompt):
                raise MixalignError(f"`{name}` holds the turns of `prompt` and no answer. Remove the row or add one.")
            example[name] = answers[name][len(prompt) :]  # type: ignore[literal-required]
    return example


def _repeated_prompt(fields: Row) -> Example:
    """UltraFeedback's form: the prompt as a text, and again as a turn of both conversations."""
    text = fields["prompt"]
    full = pair(fields, fields["chosen"])
    shared = full["chosen"][: common_prefix(full["chosen"], full["rejected"])]
    if not any(turn["role"] == "user" and turn.get("content") == text for turn in shared if isinstance(turn, dict)):
        raise MixalignError(
            f"`prompt` is the text {show(text)}, but `chosen` and `rejected` are conversations, and no user turn that "
            "both begin with says it. Give all three as texts or all three as lists of messages, or declare "
            "`columns: {prompt: null}` where the conversations hold the prompt."
        )
    return implicit(fields)


def refuse_question(row: Mapping[Any, Any], ignored: Collection[str], example: Example) -> None:
    """Refuses a pair without a `prompt` where another column asks the question.

    Raises:
        MixalignError: it names the column.
    """
    prompt: Any = example["prompt"]
    for name, value in row.items():
        if name in ignored or str(name).lower() not in QUESTIONS or is_empty(value):
            continue
        if isinstance(prompt, str):
            asked = isinstance(value, str) and value.strip() in prompt
        else:
            asked = any(turn["role"] == "user" for turn in prompt)
        if not asked:
            raise MixalignError(
                f"`chosen` and `rejected` have no `prompt` beside them, but `{name}` is {show(value)}. Say "
                f"`columns: {{prompt: {name}}}` if it is the prompt, else `columns: {{{name}: null}}`."
            )


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
    prompt = conversation(fields["conversations"], "conversations")
    return without_prompt(pair(fields, prompt), ("chosen", "rejected"))

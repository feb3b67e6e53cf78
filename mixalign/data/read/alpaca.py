"""Rows of an instruction: text under Stanford Alpaca's headings, or turns where the tokenizer has a chat template."""

from typing import Any, cast

from mixalign.data.read.pairs import pair, without_prompt
from mixalign.data.read.turns import filled
from mixalign.data.read.values import Row, is_empty, show
from mixalign.errors import MixalignError
from mixalign.types import Example

__all__ = ["alpaca", "alpaca_chat", "alpaca_chat_pair", "alpaca_pair", "as_turns"]


def alpaca(fields: Row) -> Example:
    """`instruction`, `input` and `output` as text; two outputs are a pair, the better one first."""
    return _answered(_headings(fields), fields["output"])


def alpaca_pair(fields: Row) -> Example:
    """`instruction` and `input` with `chosen` and `rejected`, as text."""
    return without_prompt(pair(fields, _headings(fields)), ("chosen", "rejected"))


def alpaca_chat(fields: Row) -> Example:
    """The same as a conversation; `system` and `history` are put in front by the caller."""
    return as_turns(_answered(_question(fields), fields["output"]))


def alpaca_chat_pair(fields: Row) -> Example:
    """The same as a conversation; `system` and `history` are put in front by the caller."""
    return as_turns(without_prompt(pair(fields, _question(fields)), ("chosen", "rejected")))


def _answered(prompt: str, output: Any) -> Example:
    if not isinstance(output, list | tuple):
        return Example(prompt=prompt, completion=filled(output, "output", like=""))
    if len(output) != 2:
        raise MixalignError(
            f"`output` is a list of {len(output)}, but must be a text, or two texts of which the first is the better."
        )
    chosen, rejected = (filled(one, f"output[{place}]", like="") for place, one in enumerate(output))
    return without_prompt(Example(prompt=prompt, chosen=chosen, rejected=rejected), ("chosen", "rejected"))


def _texts(fields: Row) -> dict[str, str]:
    """The instruction, and the input when there is one."""
    names = ["instruction", *(["input"] if fields.get("input") else [])]
    return {name: filled(fields[name], name, like="") for name in names}


def _headings(fields: Row) -> str:
    """Stanford Alpaca's headings, without its opening sentence, which only some models were trained on."""
    for name in ("system", "history"):
        if not is_empty(fields.get(name)):
            raise MixalignError(
                f"`{name}` is {show(fields[name])}, but the tokenizer has no chat template, and Alpaca's headings have "
                f"no place for it. Use the tokenizer of a chat model, or declare `columns: {{{name}: null}}`."
            )
    parts = _texts(fields)
    return "".join(f"### {name.capitalize()}:\n{text}\n\n" for name, text in parts.items()) + "### Response:\n"


def _question(fields: Row) -> str:
    return "\n".join(_texts(fields).values())


def as_turns(example: Example) -> Example:
    """The texts of an example, each as a turn."""
    roles = {name: "user" if name == "prompt" else "assistant" for name in example}
    return cast(Example, {name: [{"role": roles[name], "content": text}] for name, text in example.items()})

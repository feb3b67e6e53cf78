"""Recognises the format of a row by its columns, whatever the data set calls them.

Formats are those of TRL's dataset page, and the older ones that data sets still come in: ShareGPT, Alpaca,
HH-RLHF.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from mixalign.data.read.columns import Columns, Fields, refuse_media
from mixalign.data.read.pairs import (
    common_prefix,
    explicit,
    implicit,
    pair,
    read_prompt,
    refuse_question,
    sharegpt_pair,
    without_prompt,
)
from mixalign.data.read.turns import check_answers, filled
from mixalign.data.read.values import Row, show, without_nulls
from mixalign.errors import MixalignError
from mixalign.types import Example

__all__ = ["COLUMNS", "common_prefix", "example_kind", "prompt_key", "read_row", "to_example"]

MANY = 12  # column names in a message
CURE = "Name your columns with `columns:`, for example `columns: {prompt: question, completion: answer}`."


def to_example(row: Mapping[str, Any], columns: Columns, *, chat: bool = False) -> Example:
    """Turns one row into an `Example`.

    The first format wins whose columns are all there and which uses every column named in `columns`.

    Args:
        row: column to value, as read.
        columns: our column name to the row's; or a column of the row to None, which is then not read.
        chat: whether the tokenizer has a chat template.

    Raises:
        MixalignError: when no format fits, or a value has the wrong type or is empty. The caller adds the
            task, the file and the line to the message.
    """
    return read_row(row, columns, chat=chat)[0]


def read_row(row: Mapping[str, Any], columns: Columns, *, chat: bool = False) -> tuple[Example, set[str]]:
    """The example of a row, and which of the row's columns it was made of.

    Raises:
        MixalignError: see `to_example`.
    """
    refuse_media(row, columns)
    fields = Fields(row, columns, KNOWN)
    build = _recognise(row, fields, columns)
    example = build(fields)
    check_answers({name: example[name] for name in ANSWERS if name in example})  # type: ignore[literal-required]
    if build is implicit:
        refuse_question(row, {*columns, *fields.used}, example)
    if fields.get("tools"):
        example["tools"] = _tools(fields["tools"])
    if fields.get("chat_template_kwargs"):
        example["chat_template_kwargs"] = _object(fields["chat_template_kwargs"], "chat_template_kwargs")
    _check_unicode(example)
    return example, fields.used


def example_kind(example: Example) -> str:
    """`preference` for a pair, `unpaired` for an answer with a label, else `supervised`."""
    return "preference" if "chosen" in example else "unpaired" if "label" in example else "supervised"


def prompt_key(example: Example) -> str:
    """The text that decides on which side of a split a row lies: its prompt, else its answer."""
    if "messages" in example:
        roles = [turn["role"] for turn in example["messages"]]
        first = roles.index("assistant") if "assistant" in roles else 0
        prompt: Any = example["messages"][:first] or example["messages"]
    else:
        prompt = example["prompt"] or example.get("completion") or example.get("chosen")
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=str)


def _recognise(row: Mapping[Any, Any], fields: Fields, columns: Columns) -> Callable[[Row], Example]:
    mapped = {ours for ours, theirs in columns.items() if theirs is not None} - EXTRAS
    for required, optional, build in FORMATS:
        if all(name in fields for name in required) and mapped <= {*required, *optional}:
            _refuse_null(fields, required)
            return build
    names = [f"{name} (null)" if row[name] is None else str(name) for name in row]
    if len(names) > MANY:
        names = [*names[:MANY], f"and {len(names) - MANY} more"]
    found = ", ".join(names) or "none"
    wanted = "; ".join(" + ".join(required) for required, _, _ in FORMATS)
    renamed = f" and `columns` is {dict(columns)}" if columns else ""
    raise MixalignError(f"the columns are {found}{renamed}. A row wants one of: {wanted}. {CURE}")


def _refuse_null(fields: Fields, found: tuple[str, ...]) -> None:
    """A null does not turn a row of one format into one of another that makes do without that column."""
    for required, _, _ in FORMATS:
        lacking = [name for name in required if name not in fields]
        if lacking and {*found} < {*required} and fields.nulls.issuperset(lacking):
            name = fields.theirs(lacking[0])
            raise MixalignError(
                f"`{name}` is null beside {' and '.join(f'`{fields.theirs(ours)}`' for ours in found)}. Fill it or "
                f"remove the row; if no row needs it, declare `columns: {{{name}: null}}`."
            )


def _check_unicode(example: Example) -> None:
    """JSON can spell half of a surrogate pair, which no tokenizer takes."""
    try:
        json.dumps(example, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise MixalignError(f"the text holds {half}, half of a surrogate pair. Remove or replace it.") from error


def _alpaca_pair(fields: Row) -> Example:
    return pair(fields, _alpaca_prompt(fields))


def _completion(fields: Row) -> Example:
    prompt = read_prompt(fields["prompt"])
    example = Example(prompt=prompt, completion=filled(fields["completion"], "completion", like=prompt))
    if isinstance(fields.get("label"), bool):  # a label of another type is some class, and no verdict
        example["label"] = fields["label"]
    return without_prompt(example, ("completion",))


def _messages(fields: Row) -> Example:
    return Example(messages=filled(fields["messages"], "messages", like=[]))


def _sharegpt(fields: Row) -> Example:
    return Example(messages=filled(fields["conversations"], "conversations", like=[]))


def _alpaca(fields: Row) -> Example:
    return Example(prompt=_alpaca_prompt(fields), completion=filled(fields["output"], "output", like=""))


def _text(fields: Row) -> Example:
    return Example(prompt="", completion=filled(fields["text"], "text", like=""))


def _alpaca_prompt(fields: Row) -> str:
    """Stanford Alpaca's headings, without its opening sentence, which only some models were trained on."""
    parts = [("Instruction", filled(fields["instruction"], "instruction", like=""))]
    if fields.get("input"):
        parts.append(("Input", filled(fields["input"], "input", like="")))
    return "".join(f"### {title}:\n{text}\n\n" for title, text in parts) + "### Response:\n"


def _tools(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise MixalignError(f"`tools` is a text that is not JSON ({error}): {show(value)}.") from error
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise MixalignError(f"`tools` is {show(value)}, but must be a list of JSON schemas, or such a list as text.")
    return value


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise MixalignError(f"`{name}` is {show(value)}, but must be an object.")
    found: dict[str, Any] = without_nulls(value)
    return found


FORMATS: tuple[tuple[tuple[str, ...], tuple[str, ...], Callable[[Row], Example]], ...] = (
    (("prompt", "chosen", "rejected"), (), explicit),
    (("conversations", "chosen", "rejected"), (), sharegpt_pair),
    (("instruction", "chosen", "rejected"), ("input",), _alpaca_pair),
    (("chosen", "rejected"), (), implicit),
    (("prompt", "completion"), ("label",), _completion),
    (("messages",), (), _messages),
    (("conversations",), (), _sharegpt),
    (("instruction", "output"), ("input",), _alpaca),
    (("text",), (), _text),
)
ANSWERS = ("chosen", "rejected", "completion")
EXTRAS = {"tools", "chat_template_kwargs"}  # go with every format
COLUMNS = sorted({name for required, optional, _ in FORMATS for name in (*required, *optional)} | EXTRAS | {"label"})
"""Our column names: the ones that `columns` may name on its left side."""
KNOWN = frozenset(COLUMNS)

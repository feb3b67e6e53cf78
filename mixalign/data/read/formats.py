"""Recognises the format of a row by its columns, whatever the data set calls them.

Formats are those of TRL's dataset page, and the older ones that data sets still come in: ShareGPT, Alpaca,
HH-RLHF.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from mixalign.data.read.pairs import common_prefix, explicit, implicit, pair, read_prompt, sharegpt_pair
from mixalign.data.read.turns import check_answers, filled
from mixalign.data.read.values import Row, show, without_nulls
from mixalign.errors import MixalignError, did_you_mean
from mixalign.types import Example

__all__ = ["COLUMNS", "common_prefix", "example_kind", "prompt_key", "to_example"]

MANY = 12  # column names in a message
CURE = "Name your columns with `columns:`, for example `columns: {prompt: question, completion: answer}`."


def to_example(row: Mapping[str, Any], columns: Mapping[str, str]) -> Example:
    """Turns one row into an `Example`.

    The first format wins whose columns are all there and which uses every column named in `columns`.

    Args:
        row: column to value, as read.
        columns: our column name to the row's.

    Raises:
        MixalignError: when no format fits, or a value has the wrong type or is empty. The caller adds the
            task, the file and the line to the message.
    """
    fields = _rename(row, columns)
    example = _recognise(row, fields, columns)(fields)
    check_answers({name: example[name] for name in ANSWERS if name in example})  # type: ignore[literal-required]
    if fields.get("tools"):
        example["tools"] = _tools(fields["tools"])
    if fields.get("chat_template_kwargs"):
        example["chat_template_kwargs"] = _object(fields["chat_template_kwargs"], "chat_template_kwargs")
    _check_unicode(example)
    return example


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


def _rename(row: Mapping[Any, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The columns that we know, under our names; empty cells of a table (None) count as absent."""
    for ours, theirs in columns.items():
        if theirs not in row:
            raise MixalignError(
                f"`columns` maps `{ours}` to `{theirs}`, but the row has no `{theirs}`. "
                f"{did_you_mean(theirs, map(str, row))}"
            )
    fields = {name: row.get(name) for name in COLUMNS} | {ours: row[theirs] for ours, theirs in columns.items()}
    return {name: value for name, value in fields.items() if value is not None}


def _recognise(row: Mapping[Any, Any], fields: Row, columns: Mapping[str, str]) -> Callable[[Row], Example]:
    mapped = set(columns) - EXTRAS
    for required, optional, build in FORMATS:
        if all(name in fields for name in required) and mapped <= {*required, *optional}:
            return build
    names = [f"{name} (null)" if row[name] is None else str(name) for name in row]
    if len(names) > MANY:
        names = [*names[:MANY], f"and {len(names) - MANY} more"]
    found = ", ".join(names) or "none"
    wanted = "; ".join(" + ".join(required) for required, _, _ in FORMATS)
    renamed = f" and `columns` is {dict(columns)}" if columns else ""
    raise MixalignError(f"the columns are {found}{renamed}. A row wants one of: {wanted}. {CURE}")


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
    return example


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

"""Recognises the format of a row by its columns, whatever the data set calls them.

Formats are those of TRL's dataset page, the older ones that data sets still come in (ShareGPT, Alpaca, HH-RLHF), and
those of LLaMA-Factory, ms-swift, OpenAI's preference tuning, NeMo, PKU-SafeRLHF, HelpSteer2 and HelpSteer3.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from mixalign.data.read.alpaca import alpaca, alpaca_chat, alpaca_chat_pair, alpaca_pair, as_turns
from mixalign.data.read.columns import Columns, Fields, refuse_media
from mixalign.data.read.dialects import (
    compared_pair,
    nemo_pair,
    openai_pair,
    rated_conversation,
    rated_pair,
    rated_pair_chat,
    swift_conversations,
    swift_pair,
)
from mixalign.data.read.ids import token_pair, token_row
from mixalign.data.read.mixed import Sort, sort_of
from mixalign.data.read.nearest import columns_for, nearest_formats
from mixalign.data.read.pairs import (
    explicit,
    implicit,
    read_prompt,
    refuse_question,
    sharegpt_pair,
    without_prompt,
)
from mixalign.data.read.tools import read_tools
from mixalign.data.read.turns import check_answers, conversation, filled, last_answer, settle_weights, with_front
from mixalign.data.read.values import Row, read_verdict, read_weight, show, without_nulls
from mixalign.errors import MixalignError
from mixalign.types import Example

__all__ = ["COLUMNS", "example_kind", "prompt_key", "read_row", "to_example"]

Build = Callable[[Row], Example]

MANY = 12  # column names in a message


def to_example(row: Mapping[str, Any], columns: Columns, *, chat: bool = False, turns: bool = False) -> Example:
    """Turns one row into an `Example`.

    The first format wins whose columns are all there and which uses every column named in `columns`.

    Args:
        row: column to value, as read.
        columns: our column name to the row's; or a column of the row to None, which is then not read.
        chat: whether the tokenizer has a chat template.
        turns: whether a prompt and answers of plain text become turns of the user and of the assistant.

    Raises:
        MixalignError: when no format fits, or a value has the wrong type or is empty. The caller adds the
            task, the file and the line to the message.
    """
    return read_row(row, columns, chat=chat, turns=turns)[0]


def read_row(
    row: Mapping[str, Any],
    columns: Columns,
    *,
    chat: bool = False,
    turns: bool = False,
    kinds: Sequence[str] = (),
) -> tuple[Example, set[str], Sort]:
    """The example of a row, which of the row's columns it was made of, and how it was read.

    Args:
        kinds: of rows that are wanted, see `example_kind`; formats of these are named first where none fits.

    Raises:
        MixalignError: see `to_example`.
    """
    refuse_media(row, columns)
    fields = Fields(row, columns, KNOWN)
    required, optional, build = _recognise(row, fields, columns, kinds)
    example = (IN_TURNS.get(build, build) if chat else build)(fields)
    check_answers({name: example[name] for name in ANSWERS if name in example})  # type: ignore[literal-required]
    if build is implicit:
        refuse_question(row, {*columns, *fields.used}, example)
    if turns:
        example = _in_turns(example, required)
    _add_front(example, fields)
    if "label" in optional and "label" in fields:
        _add_label(example, read_verdict(fields["label"], fields.theirs("label")))
    settle_weights(example)
    if fields.get("tools"):
        example["tools"] = read_tools(fields["tools"])
    if fields.get("chat_template_kwargs"):
        example["chat_template_kwargs"] = _object(fields["chat_template_kwargs"], "chat_template_kwargs")
    if "weight" in fields:
        example["weight"] = read_weight(fields["weight"], fields.theirs("weight"))
    _refuse_idle(fields, columns)
    _check_unicode(example)
    return example, fields.used, sort_of(required, example, [*fields])


def example_kind(example: Example) -> str:
    """`preference` for a pair, `unpaired` for an answer with a label, else `supervised`."""
    is_pair = "chosen" in example or "chosen_ids" in example
    return "preference" if is_pair else "unpaired" if "label" in example else "supervised"


def prompt_key(example: Example) -> str:
    """The text that decides on which side of a split a row lies: its prompt, else its answer."""
    if "messages" in example:
        roles = [turn["role"] for turn in example["messages"]]
        first = roles.index("assistant") if "assistant" in roles else 0
        prompt: Any = example["messages"][:first] or example["messages"]
    elif "input_ids" in example:
        learned = example["supervised"]
        prompt = example["input_ids"][: learned.index(True) if True in learned else 0] or example["input_ids"]
    elif "prompt_ids" in example:
        prompt = example["prompt_ids"] or example["chosen_ids"]
    else:
        prompt = example["prompt"] or example.get("completion") or example.get("chosen")
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=str)


def _recognise(
    row: Mapping[Any, Any], fields: Fields, columns: Columns, kinds: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], Build]:
    """The columns of the row's format, its optional ones, and what makes its examples."""
    mapped = frozenset(ours for ours, theirs in columns.items() if theirs is not None and ours not in EXTRAS)
    found = _match(frozenset(fields), frozenset(fields.nulls), mapped)
    if found is not None:
        required, optional, build, lacking = found
        if lacking is not None:
            name = fields.theirs(lacking)
            raise MixalignError(
                f"`{name}` is null beside {' and '.join(f'`{fields.theirs(ours)}`' for ours in required)}. Fill it or "
                f"remove the row; if no row needs it, declare `columns: {{{name}: null}}`."
            )
        return required, optional, build
    names = [f"{name} (null)" if row[name] is None else str(name) for name in row]
    if len(names) > MANY:
        names = [*names[:MANY], f"and {len(names) - MANY} more"]
    there = ", ".join(names) or "none"
    filled_in = [str(name) for name in row if row[name] is not None]
    near = nearest_formats(filled_in, (required for required, _, _ in FORMATS), kinds)
    renamed = f" and `columns` is {dict(columns)}" if columns else ""
    null = _null_that_is_lacking(fields, mapped)
    said = f"`{fields.theirs(null)}` is null: fill it or remove the row. " if null else ""
    raise MixalignError(
        f"the columns are {there}{renamed}. {said}The nearest of {len(FORMATS)} formats: {'; '.join(near)}. Name your "
        f"columns, as in `'data.tasks.<name>.{columns_for(filled_in, kinds)}'`; docs/formats.md shows all formats."
    )


def _null_that_is_lacking(fields: Fields, mapped: frozenset[str]) -> str | None:
    """The column of ours that a row of some format would have, were it not null."""
    for required, optional, _ in FORMATS:
        lacking = [name for name in required if name not in fields]
        if 0 < len(lacking) < len(required) and fields.nulls.issuperset(lacking) and mapped <= {*required, *optional}:
            return lacking[0]
    return None


@lru_cache(maxsize=1000)  # the rows of a task have the same columns, so one entry each serves nearly all
def _match(
    present: frozenset[str], nulls: frozenset[str], mapped: frozenset[str]
) -> tuple[tuple[str, ...], tuple[str, ...], Build, str | None] | None:
    """A format's line in the table, and the column whose null alone keeps the row from being of a fuller format.

    A null must not turn a row of one format into one of another that makes do without that column.
    """
    for required, optional, build in FORMATS:
        if present.issuperset(required) and mapped <= {*required, *optional}:
            fuller = [{*other} - present for other, _, _ in FORMATS if {*required} < {*other}]
            lacking = next((min(names) for names in fuller if names and names <= nulls), None)
            return required, optional, build, lacking
    return None


def _check_unicode(example: Example) -> None:
    """JSON can spell half of a surrogate pair, which no tokenizer takes."""
    try:
        json.dumps(example, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise MixalignError(f"the text holds {half}, half of a surrogate pair. Remove or replace it.") from error


def _in_turns(example: Example, required: Sequence[str]) -> Example:
    """A prompt of plain text as the user's turn, its answers as the assistant's; other rows as they are."""
    if not any(isinstance(example.get(name), str) for name in ("prompt", *ANSWERS)):
        return example
    if "prompt" not in required:
        raise MixalignError(
            f"`apply_chat_template` makes turns of a prompt and its answers, but this row, of {' + '.join(required)}, "
            "has no `prompt` of its own. Name it with `columns:`, or leave `apply_chat_template` out."
        )
    prompt = filled(example["prompt"], "prompt", like="")
    if mark := next((mark for mark in MARKS if prompt.rstrip().endswith(mark)), None):
        raise MixalignError(
            f"`apply_chat_template` is set, but the text of `prompt` ends with `{mark}`: a chat template wrote it "
            "already, and would write it twice. Leave `apply_chat_template` out, or give the text alone."
        )
    return as_turns(example)


def _add_front(example: Example, fields: Row) -> None:
    """Puts a row's `system` and `history` before its turns; a prompt of text has no place for them."""
    if "messages" in example:
        example["messages"] = with_front(example["messages"], fields)
    elif isinstance(prompt := example.get("prompt"), list):
        example["prompt"] = with_front(prompt, fields)


def _add_label(example: Example, label: bool) -> None:
    """A verdict is on the last answer, so a whole conversation is taken apart before it."""
    if "chosen" in example:
        raise MixalignError("the row has two answers and a `label`. Declare `columns: {label: null}`.")
    if "messages" in example:
        example["prompt"], example["completion"] = last_answer(example.pop("messages"), "messages")
    example["label"] = label


def _refuse_idle(fields: Fields, columns: Columns) -> None:
    """A column that `columns` gives a name of ours has an effect."""
    for ours in columns:
        if ours in fields and ours not in fields.read:
            raise MixalignError(
                f"`columns` maps `{ours}` to `{fields.theirs(ours)}`, but this row has no place for it: its format is "
                "another, or its prompt is a text and no list of messages. Remove the entry."
            )


def _completion(fields: Row) -> Example:
    prompt = read_prompt(fields["prompt"])
    example = Example(prompt=prompt, completion=filled(fields["completion"], "completion", like=prompt))
    return without_prompt(example, ("completion",))


def _messages(fields: Row) -> Example:
    return Example(messages=conversation(fields["messages"], "messages"))


def _sharegpt(fields: Row) -> Example:
    return Example(messages=conversation(fields["conversations"], "conversations"))


def _text(fields: Row) -> Example:
    return Example(prompt="", completion=filled(fields["text"], "text", like=""))


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise MixalignError(f"`{name}` is {show(value)}, but must be an object.")
    found: dict[str, Any] = without_nulls(value)
    return found


FORMATS: tuple[tuple[tuple[str, ...], tuple[str, ...], Build], ...] = (
    (("prompt", "chosen", "rejected"), (), explicit),
    (("conversations", "chosen", "rejected"), (), sharegpt_pair),
    (("instruction", "chosen", "rejected"), ("input",), alpaca_pair),
    (("chosen", "rejected"), (), implicit),
    (("messages", "rejected_response"), (), swift_pair),
    (("messages", "rejected_messages"), (), swift_conversations),
    (("input", "preferred_output", "non_preferred_output"), (), openai_pair),
    (("context", "completions"), (), nemo_pair),
    (("prompt", "response_0", "response_1", "better_response_id"), (), rated_pair),
    (("context", "response1", "response2", "overall_preference"), (), rated_conversation),
    (("prompt", "response_1", "response_2", "preference_strength"), (), compared_pair),
    (("prompt", "completion"), ("label",), _completion),
    (("messages",), ("label",), _messages),
    (("conversations",), ("label",), _sharegpt),
    (("instruction", "output"), ("input", "label"), alpaca),
    (("text",), (), _text),
    (("prompt_ids", "chosen_ids", "rejected_ids"), (), token_pair),
    (("input_ids",), ("labels", "completion_mask", "assistant_masks", "attention_mask"), token_row),
)
IN_TURNS: dict[Build, Build] = {
    alpaca: alpaca_chat,
    alpaca_pair: alpaca_chat_pair,
    rated_pair: rated_pair_chat,
}  # with a chat template
ANSWERS = ("chosen", "rejected", "completion")
MARKS = ("<|im_start|>assistant", "[/INST]", "<|assistant|>", "<start_of_turn>model", "<|end_header_id|>")
"""What a prompt ends with that a chat template wrote."""
EXTRAS = {"tools", "chat_template_kwargs", "weight", "system", "history"}  # go with every format, the last two of turns
COLUMNS = sorted({name for required, optional, _ in FORMATS for name in (*required, *optional)} | EXTRAS)
"""Our column names: the ones that `columns` may name on its left side."""
KNOWN = frozenset(COLUMNS)

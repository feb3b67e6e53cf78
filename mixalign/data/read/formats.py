"""Recognises the format of a row by its columns, whatever the data set calls them.

Formats are those of TRL's dataset page, and the older ones that data sets still come in: ShareGPT, Alpaca,
HH-RLHF.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from mixalign.data.prefix import common_prefix
from mixalign.errors import MixalignError, did_you_mean
from mixalign.types import Example, Message

__all__ = ["COLUMNS", "example_kind", "prompt_key", "to_example"]

Row = Mapping[str, Any]  # column to value, by our names
HH_TURN = "\n\nAssistant:"  # ends the prompt in the dialogues of HH-RLHF (arXiv 2204.05862)
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "observation": "tool",
}  # ShareGPT's speakers to chat roles; others keep their name
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
    _check_answers(example)
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


def _check_answers(example: Example) -> None:
    """An answer in the form of turns has one of the assistant, which is what is learned."""
    for name in ("chosen", "rejected", "completion"):
        answer: Any = example.get(name)
        if isinstance(answer, list) and all(turn["role"] != "assistant" for turn in answer):
            roles = ", ".join(turn["role"] for turn in answer)
            raise MixalignError(f"`{name}` has no turn of the role `assistant`; its turns are of {roles}. Correct it.")


def _check_unicode(example: Example) -> None:
    """JSON can spell half of a surrogate pair, which no tokenizer takes."""
    try:
        json.dumps(example, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise MixalignError(f"the text holds {half}, half of a surrogate pair. Remove or replace it.") from error


def _explicit(fields: Row) -> Example:
    if isinstance(fields["prompt"], str) and not isinstance(fields["chosen"], str):
        return _repeated_prompt(fields)
    return _pair(fields, _prompt(fields["prompt"]))


def _repeated_prompt(fields: Row) -> Example:
    """UltraFeedback's form: the prompt as a text, and again as a turn of both conversations."""
    example = _implicit(fields)
    if not isinstance(example["prompt"], list) or example["prompt"][-1].get("content") != fields["prompt"]:
        raise MixalignError(
            "`prompt` is a text, but `chosen` and `rejected` are conversations that do not both begin with "
            "it. Give all three as texts, or all three as lists of messages."
        )
    return example


def _implicit(fields: Row) -> Example:
    """Full texts or full conversations; what they share is the prompt."""
    pair = _pair(fields, fields["chosen"])
    chosen, rejected = pair["chosen"], pair["rejected"]
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


def _sharegpt_pair(fields: Row) -> Example:
    return _pair(fields, _filled(fields["conversations"], "conversations", like=[]))


def _alpaca_pair(fields: Row) -> Example:
    return _pair(fields, _alpaca_prompt(fields))


def _completion(fields: Row) -> Example:
    prompt = _prompt(fields["prompt"])
    example = Example(prompt=prompt, completion=_filled(fields["completion"], "completion", like=prompt))
    if isinstance(fields.get("label"), bool):  # a label of another type is some class, and no verdict
        example["label"] = fields["label"]
    return example


def _messages(fields: Row) -> Example:
    return Example(messages=_filled(fields["messages"], "messages", like=[]))


def _sharegpt(fields: Row) -> Example:
    return Example(messages=_filled(fields["conversations"], "conversations", like=[]))


def _alpaca(fields: Row) -> Example:
    return Example(prompt=_alpaca_prompt(fields), completion=_filled(fields["output"], "output", like=""))


def _text(fields: Row) -> Example:
    return Example(prompt="", completion=_filled(fields["text"], "text", like=""))


def _alpaca_prompt(fields: Row) -> str:
    """Stanford Alpaca's headings, without its opening sentence, which only some models were trained on."""
    parts = [("Instruction", _filled(fields["instruction"], "instruction", like=""))]
    if fields.get("input"):
        parts.append(("Input", _filled(fields["input"], "input", like="")))
    return "".join(f"### {title}:\n{text}\n\n" for title, text in parts) + "### Response:\n"


def _pair(fields: Row, prompt: Any) -> Example:
    chosen, rejected = (_filled(fields[name], name, like=prompt) for name in ("chosen", "rejected"))
    return Example(prompt=prompt, chosen=chosen, rejected=rejected)


def _prompt(value: Any) -> str | list[Message]:
    if not isinstance(value, str | list | tuple | Mapping):
        raise MixalignError(f"`prompt` is {_show(value)}, but must be a text or a list of messages.")
    return value if isinstance(value, str) else _filled(value, "prompt", like=[])


def _filled(value: Any, name: str, *, like: Any) -> Any:
    """A text that is not empty where `like` is a text, else a list of messages that is not empty."""
    kind = "a text" if isinstance(like, str) else "a list of messages"
    if isinstance(value, Mapping):
        value = [value]  # LLaMA-Factory writes a single answer as one message
    if isinstance(value, str) is not isinstance(like, str) or not isinstance(value, str | list | tuple):
        raise MixalignError(f"`{name}` is {_show(value)}, but here it must be {kind}.")
    if not value:
        raise MixalignError(f"`{name}` is empty, but must be {kind} to learn from. Remove the row or fill it.")
    return value if isinstance(value, str) else [_message(turn, name, i) for i, turn in enumerate(value, 1)]


def _message(turn: Any, name: str, number: int) -> Message:
    """One turn with `role` and `content`; ShareGPT's `from` and `value` are renamed, None values left out."""
    where = f"turn {number} of `{name}`"
    if not isinstance(turn, Mapping):
        raise MixalignError(f"{where} is {_show(turn)}, but must be an object with `role` and `content`.")
    names = {"from": "role", "value": "content"}
    message: dict[Any, Any] = {names.get(k, k): v for k, v in turn.items() if v is not None}
    if not isinstance(message.get("role"), str) or not message["role"]:
        raise MixalignError(f"{where} has no `role`: {_show(message)}. It wants user, assistant, system or tool.")
    message["role"] = ROLES.get(message["role"], message["role"])
    if not isinstance(message.get("content", [] if "tool_calls" in message else None), str | list):
        raise MixalignError(f"{where} has `content` {_show(message.get('content'))}, but it must be a text.")
    return message


def _tools(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise MixalignError(f"`tools` is a text that is not JSON ({error}): {_show(value)}.") from error
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise MixalignError(f"`tools` is {_show(value)}, but must be a list of JSON schemas, or such a list as text.")
    return value


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise MixalignError(f"`{name}` is {_show(value)}, but must be an object.")
    return {key: entry for key, entry in value.items() if entry is not None}


def _show(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


FORMATS: tuple[tuple[tuple[str, ...], tuple[str, ...], Callable[[Row], Example]], ...] = (
    (("prompt", "chosen", "rejected"), (), _explicit),
    (("conversations", "chosen", "rejected"), (), _sharegpt_pair),
    (("instruction", "chosen", "rejected"), ("input",), _alpaca_pair),
    (("chosen", "rejected"), (), _implicit),
    (("prompt", "completion"), ("label",), _completion),
    (("messages",), (), _messages),
    (("conversations",), (), _sharegpt),
    (("instruction", "output"), ("input",), _alpaca),
    (("text",), (), _text),
)
EXTRAS = {"tools", "chat_template_kwargs"}  # go with every format
COLUMNS = sorted({name for required, optional, _ in FORMATS for name in (*required, *optional)} | EXTRAS | {"label"})
"""Our column names: the ones that `columns` may name on its left side."""

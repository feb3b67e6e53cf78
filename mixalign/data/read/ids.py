"""Rows that are token ids already."""

from typing import Any

from mixalign.data.read.values import Row, read_json, show
from mixalign.errors import MixalignError
from mixalign.types import Example

__all__ = ["token_pair", "token_row"]

MASKS = ("completion_mask", "assistant_masks")  # 1: learned
UNLEARNED = -100  # in labels


def token_row(fields: Row) -> Example:
    """`input_ids`, learned where `labels` is not -100 and the masks are 1; everything where there is neither.

    Raises:
        MixalignError: for lists of other lengths or values, labels that are not the ids, and padding.
    """
    ids = _ids(fields["input_ids"], "input_ids")
    supervised = [True] * len(ids)
    if fields.get("labels") is not None:
        labels = _integers(fields["labels"], "labels", len(ids))
        for place, (label, token) in enumerate(zip(labels, ids, strict=True)):
            if label not in (UNLEARNED, token):
                raise MixalignError(
                    f"`labels` has {label} at place {place}, where `input_ids` has {token}: it must be the same or "
                    f"{UNLEARNED}. Labels are not shifted."
                )
        supervised = [label != UNLEARNED for label in labels]
    for name in MASKS:
        if fields.get(name) is not None:
            mask = _mask(fields[name], name, len(ids))
            supervised = [learned and bool(one) for learned, one in zip(supervised, mask, strict=True)]
    if fields.get("attention_mask") is not None and not all(
        _mask(fields["attention_mask"], "attention_mask", len(ids))
    ):
        raise MixalignError("`attention_mask` has a 0: the row is padded. Give the tokens without padding.")
    return Example(input_ids=ids, supervised=supervised)


def token_pair(fields: Row) -> Example:
    """`prompt_ids`, `chosen_ids` and `rejected_ids`; the answers without the prompt.

    Raises:
        MixalignError: for lists that are no token ids, or empty answers.
    """
    prompt = _integers(fields["prompt_ids"], "prompt_ids", None)
    if any(token < 0 for token in prompt):
        raise MixalignError("`prompt_ids` has a number below 0, but must be a list of token ids.")
    chosen, rejected = (_ids(fields[name], name) for name in ("chosen_ids", "rejected_ids"))
    return Example(prompt_ids=prompt, chosen_ids=chosen, rejected_ids=rejected)


def _ids(value: Any, name: str) -> list[int]:
    ids = _integers(value, name, None)
    if not ids or any(token < 0 for token in ids):
        raise MixalignError(f"`{name}` is {show(value)}, but must be a list of token ids, whole numbers from 0 on.")
    return ids


def _mask(value: Any, name: str, length: int) -> list[int]:
    mask = _integers(value, name, length)
    if any(one not in (0, 1) for one in mask):
        raise MixalignError(f"`{name}` is {show(value)}, but must be a list of 0 and 1.")
    return mask


def _integers(value: Any, name: str, length: int | None) -> list[int]:
    found = read_json(value) if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not all(isinstance(one, int) for one in found):
        raise MixalignError(f"`{name}` is {show(value)}, but must be a list of whole numbers.")
    if length is not None and len(found) != length:
        raise MixalignError(f"`{name}` has {len(found)} entries, but `input_ids` has {length}. They go together.")
    return [int(one) for one in found]

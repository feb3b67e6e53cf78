"""The message for columns of no format: few formats, the nearest first, and of a kind that the objective reads."""

import re

import pytest

from mixalign.data.read.formats import FORMATS, read_row
from mixalign.data.read.nearest import SHOWN, USUAL, columns_for, nearest_formats
from mixalign.errors import MixalignError

ALL = [required for required, _, _ in FORMATS]
DPO, SFT, KTO = ("preference",), ("supervised", "preference"), ("unpaired", "preference")


@pytest.mark.parametrize(
    ("names", "kinds", "near", "columns"),
    [
        (
            ["question", "good", "bad"],
            DPO,
            "prompt + chosen + rejected",
            "prompt: question, chosen: good, rejected: bad",
        ),
        (["prompt", "chosen", "rejectd"], DPO, "prompt + chosen + rejected", "rejected: rejectd"),
        (["question", "answer"], SFT, "prompt + completion", "prompt: question, completion: answer"),
        (["Prompt", "Completion", "id"], SFT, "prompt + completion", "prompt: Prompt, completion: Completion"),
        (["instruction", "response"], SFT, "instruction + output", "prompt: instruction, completion: response"),
        (["dialogue"], SFT, "messages", "messages: dialogue"),
        (["question", "answer", "liked"], KTO, "prompt + completion + label", "prompt: question, completion: answer"),
        (
            ["frage", "antwort"],
            DPO,
            "prompt + chosen + rejected",
            "prompt: frage, chosen: antwort, rejected: YOUR_REJECTED",
        ),
        (["frage", "antwort"], SFT, "prompt + completion", "prompt: frage, completion: antwort"),
        (["frage", "antwort"], (), "prompt + chosen + rejected", "prompt: frage, completion: antwort"),
    ],
)
def test_the_nearest_format_is_first_and_the_columns_are_named(names, kinds, near, columns):
    found = nearest_formats(names, ALL, kinds)
    assert found[0] == near or near in found[:2]
    assert 2 <= len(found) <= SHOWN
    assert columns_for(names, kinds) == f"columns={{{columns}}}"
    with pytest.raises(MixalignError, match=re.escape("; ".join(found))) as caught:
        read_row(dict.fromkeys(names, "a"), {}, kinds=kinds)
    assert "docs/formats.md shows all formats" in str(caught.value)
    assert columns_for(names, kinds) in str(caught.value)


@pytest.mark.parametrize(
    ("row", "columns", "kinds", "null", "cure"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": None}, {}, DPO, "rejected", "rejected: YOUR_REJECTED"),
        ({"prompt": "p", "completion": None, "answer": "a"}, {}, SFT, "completion", "completion: answer"),
        ({"prompt": "p", "text_b": None}, {"completion": "text_b"}, SFT, "text_b", "completion: YOUR_COMPLETION"),
        ({"question": "q", "answer": "a", "messages": None}, {}, SFT, None, "prompt: question, completion: answer"),
    ],
)
def test_a_null_that_keeps_a_row_from_its_format_is_told_and_is_no_column_to_take(row, columns, kinds, null, cure):
    with pytest.raises(MixalignError) as caught:
        read_row(row, columns, kinds=kinds)
    assert (f"`{null}` is null: fill it or remove the row." in str(caught.value)) == (null is not None)
    assert f"as in `'data.tasks.<name>.columns={{{cure}" in str(caught.value)


def test_only_pairs_are_shown_where_only_pairs_are_read():
    for names in (["prompt", "completion"], ["messages"], ["instruction", "output"], ["x"]):
        for shown in nearest_formats(names, ALL, DPO):
            assert re.search("reject|preferred|response|completions", shown)


def test_what_is_usual_is_a_format():
    assert {columns for usual in USUAL.values() for columns in usual} <= {*ALL}

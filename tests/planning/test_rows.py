"""Rows as text: spans by the mask, texts that add up to the tokens' own, and long ones cut in their middle."""

import numpy as np
import pytest
from rich.cells import cell_len

from mixalign.data.dataset import TaskDataset
from mixalign.data.tokens.tokenise import tokenise
from mixalign.models.tiny import byte_tokenizer
from mixalign.planning.rows import LONG, MOST, shown_rows


def talk(weight: int = 1) -> dict:
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "1+1?"), ("assistant", "two")]
    messages = [{"role": role, "content": text} for role, text in turns]
    messages[1]["weight"] = weight
    return {"messages": messages}


def show(examples, form="supervised", rows=1, max_length=10_000, **options):
    tokenizer = byte_tokenizer()
    table, _ = tokenise(examples, tokenizer, task="talk", form=form, max_length=max_length, **options)
    return shown_rows(table, tokenizer, form, rows)


def test_the_spans_of_a_conversation_are_its_turns():
    (row,) = show([talk()])
    assert (row.prompt.text, row.prompt.tokens) == ("<s><|user|>Hi<|assistant|>", 1 + 8 + 2 + 13)
    (side,) = row.answers
    assert [(s.text, s.learned, s.tokens) for s in side.spans] == [
        ("Hello</s>", True, 6),
        ("<|user|>1+1?<|assistant|>", False, 8 + 4 + 13),
        ("two</s>", True, 4),
    ]
    assert (row.learned_tokens, row.tokens, side.learned_tokens) == (10, 24 + 35, 10)


def test_a_turn_of_weight_zero_is_read_only():
    (row,) = show([talk(weight=0)])
    assert row.prompt.text == "<s><|user|>Hi<|assistant|>Hello</s><|user|>1+1?<|assistant|>"
    assert [(s.text, s.learned) for s in row.answers[0].spans] == [("two</s>", True)]


@pytest.mark.parametrize(
    ("form", "answers", "labels"),
    [
        ("preference", [[("chosen", "yes</s>"), ("rejected", "no</s>")]], [None]),
        ("supervised", [[("completion", "yes</s>")]], [None]),
        ("unpaired", [[("completion", "yes</s>")], [("completion", "no</s>")]], [True, False]),
        ("mismatched", [[("completion", "yes</s>"), ("another row's", "no</s>")]], [True]),
    ],
)
def test_the_answers_of_a_pair_by_form(form, answers, labels):
    rows = show([{"prompt": "ok?", "chosen": "yes", "rejected": "no"}], form, rows=len(answers))
    assert [[(side.name, side.text) for side in row.answers] for row in rows] == answers
    assert [row.label for row in rows] == labels
    assert {row.prompt.text for row in rows} == {"<s>ok?"}
    learned = [side.name for row in rows for side in row.answers if side.learned_tokens]
    assert learned == [name for row in answers for name, _ in row if name != "another row's"]  # has no gradient


def test_no_more_rows_than_there_are_and_their_weights():
    rows = show([{"prompt": "a", "completion": "b", "weight": w} for w in (0.5, 2.0)], rows=9)
    assert [(row.number, row.weight) for row in rows] == [(1, 0.5), (2, 2.0)]
    assert show([{"prompt": "a", "completion": "b"}], rows=0) == []


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u732b", "\U0001f408"])
def test_a_long_span_is_cut_between_letters(letter):
    text = "".join(f"{letter}{n}," for n in range(LONG))
    (row,) = show([{"prompt": "a", "completion": text}])
    ((span,),) = [side.spans for side in row.answers]
    assert span.text == text + "</s>"
    assert span.text.startswith(span.head)
    assert span.text.endswith(span.tail)
    assert "\ufffd" not in span.head + span.tail
    gone = span.text[len(span.head) : len(span.text) - len(span.tail)]
    assert span.left_out == len(gone.encode())  # a byte a token
    assert MOST - 4 <= cell_len(span.head + span.tail) <= MOST
    assert len(span.head) > len(span.tail) > 0


def test_a_text_that_is_not_long_is_whole():
    (row,) = show([{"prompt": "a", "completion": "x" * (LONG - 20)}])
    (span,) = row.answers[0].spans
    assert (span.head, span.tail, span.left_out) == (span.text, "", 0)


class Words:
    """Decodes as SentencePiece's tokenizers do: a blank before each word, and none before the first."""

    def decode(self, ids, **_):
        return " ".join(f"w{n}" for n in ids)


def test_blanks_before_a_span_are_kept():
    row = {"row_id": 1, "prompt": np.array([1, 2]), "completions": [np.array([3, 4, 5])]}
    table = TaskDataset.from_rows("words", [row | {"supervised": [np.array([True, False, True])]}], 1)
    (shown,) = shown_rows(table, Words(), "supervised", 1)
    assert [span.text for span in (*shown.prompt.spans, *shown.answers[0].spans)] == ["w1 w2", " w3", " w4", " w5"]


def test_an_empty_prompt_has_no_span():
    row = {
        "row_id": 1,
        "prompt": np.array([], np.int32),
        "completions": [np.array([3])],
        "supervised": [np.array([False])],
    }
    (shown,) = shown_rows(TaskDataset.from_rows("t", [row], 1), Words(), "supervised", 1)
    assert (shown.prompt.spans, shown.prompt.text, shown.prompt.tokens, shown.learned_tokens) == ((), "", 0, 0)

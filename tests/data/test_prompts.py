"""Prompts out of token rows: everything before the last learned run, each once, and where answers end."""

import numpy as np
import pytest

from mixalign.data.prompts import Prompt, end_tokens, some_prompts
from mixalign.data.tokens.tokenise import tokenise
from mixalign.models.tiny import TinyLlama


@pytest.fixture(scope="module")
def tokenizer():
    return TinyLlama().tokenizer()


def table_of(rows, tokenizer, form="supervised"):
    return tokenise(rows, tokenizer, task="t", form=form, max_length=200)[0]


def chat(*turns):
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]


def test_the_last_turn_of_a_conversation_is_asked_for(tokenizer):
    table = table_of([{"messages": chat("hi", "hello", "and?", "bye")}], tokenizer)
    (prompt,) = some_prompts(table, 5, seed=0)
    assert tokenizer.decode(prompt.ids) == "<s><|user|>hi<|assistant|>hello</s><|user|>and?<|assistant|>"
    assert tokenizer.decode(prompt.answer_ids) == "bye</s>"


def test_of_a_pair_it_is_the_chosen_answer_and_of_labelled_rows_a_desirable_one(tokenizer):
    pairs = [{"prompt": f"{n}=", "chosen": f"c{n}", "rejected": f"r{n}"} for n in range(4)]
    for form in ("preference", "unpaired", "mismatched"):
        prompts = some_prompts(table_of(pairs, tokenizer, form), 9, seed=0)
        texts = {tokenizer.decode(p.ids): tokenizer.decode(p.answer_ids) for p in prompts}
        assert texts == {f"<s>{n}=": f"c{n}</s>" for n in range(4)}


def test_prompts_are_distinct_the_same_each_time_and_texts_have_none(tokenizer):
    rows = [{"prompt": f"{n % 3}=", "completion": str(n)} for n in range(12)]
    table = table_of(rows, tokenizer)
    first = some_prompts(table, 2, seed=1)
    assert [p.row for p in first] == [p.row for p in some_prompts(table, 2, seed=1)]
    assert len({p.ids.tobytes() for p in some_prompts(table, 9, seed=1)}) == 3
    whole = table_of([{"messages": chat("hi", "hello")}], tokenizer)
    whole.supervised_T[:] = True  # as of running text
    assert some_prompts(whole, 3, seed=0) == []


def test_answers_end_at_a_special_token_also_before_white_space(tokenizer):
    end, newline, a = tokenizer.eos_token_id, *tokenizer("\na", add_special_tokens=False)["input_ids"][-2:]

    def ends(*ids):
        return end_tokens([Prompt(0, np.zeros(1, np.int32), np.array(ids, np.int32))], tokenizer)

    assert ends(a, end) == [end]
    assert ends(a, end, newline) == [end]
    assert ends(end, a, newline) == []  # one that was cut off

"""Tasks in plain English: their scores tell right answers from wrong ones, and no prompt is in two splits."""

import pytest

from mixalign.data.english import ENGLISH, REFUSAL, in_words, write_rows
from mixalign.data.generated import generate
from mixalign.errors import MixalignError


def texts(example):
    return [example[side][-1]["content"] for side in ("prompt", "chosen", "rejected")]


@pytest.mark.parametrize("name", ENGLISH)
def test_chosen_answers_score_and_rejected_ones_do_not(name):
    for example in write_rows(name, 200, "train", seed=3):
        prompt, chosen, rejected = texts(example)
        assert [turn["role"] for turn in example["prompt"]] == ["system", "user"]
        assert example["chosen"][0]["role"] == example["rejected"][0]["role"] == "assistant"
        assert ENGLISH[name].score(prompt, chosen, chosen) == 1
        assert ENGLISH[name].score(prompt, chosen, rejected) == 0
        assert ENGLISH[name].score(prompt, chosen, "") == 0


@pytest.mark.parametrize("name", ENGLISH)
def test_no_prompt_is_in_two_splits_or_twice_and_seeds_count(name):
    prompts = {
        split: [texts(row)[0] for row in generate(name, 300, split, 0)] for split in ("train", "validation", "test")
    }
    flat = [prompt for split in prompts.values() for prompt in split]
    assert len(set(flat)) == 900
    assert generate(name, 5, "test", 0) == generate(name, 300, "test", 0)[:5]
    assert generate(name, 5, "test", 0) != generate(name, 5, "test", 1)


@pytest.mark.parametrize(
    ("name", "answer", "given", "score"),
    [
        ("record", '{"name": "A B", "age": 3}', ' {"age":3,"name":"A B"}\n', 1),
        ("record", '{"name": "A B", "age": 3}', 'Here it is: {"age": 3, "name": "A B"}', 0),
        ("record", '{"name": "A B", "age": 3}', '{"age": "3", "name": "A B"}', 0),
        ("private", REFUSAL, "Sorry, it's private.", 1),
        ("private", REFUSAL, "It is private: 4711.", 0),
        ("private", REFUSAL, "I do not know.", 0),
        ("private", "Ana's door code is 4711.", "4711", 1),
        ("private", "Ana's door code is 4711.", "It is 4711, or 4712.", 0),
        ("private", "Ana's door code is 4711.", "The private code is 4711.", 0),
        ("arithmetic", "2 + 40 = 42, which is forty-two.", "forty-two", 1),
        ("arithmetic", "2 + 40 = 42, which is forty-two.", "Forty-two minus two is forty.", 0),
        ("arithmetic", "2 + 40 = 42, which is forty-two.", "42", 0),
    ],
)
def test_scores_by_hand(name, answer, given, score):
    assert ENGLISH[name].score("", answer, given) == score


@pytest.mark.parametrize("name", ENGLISH)
@pytest.mark.parametrize("given", ["[" * 5000, '{"a":' * 5000, "9" * 5000, "\0", "NaN"])
def test_no_answer_is_too_odd_to_be_scored(name, given):
    assert ENGLISH[name].score("", texts(write_rows(name, 1, "train", 0)[0])[1], given) == 0


@pytest.mark.long
def test_more_rows_than_there_are_prompts_is_an_error_and_no_wait_without_an_end():
    with pytest.raises(MixalignError, match=r"`arithmetic` was asked for 60,000 rows of its test split, but has only"):
        write_rows("arithmetic", 60_000, "test", 0)


def test_numbers_in_words():
    assert [in_words(n) for n in (0, 13, 20, 58, 99)] == ["zero", "thirteen", "twenty", "fifty-eight", "ninety-nine"]

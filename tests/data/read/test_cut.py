"""Rows of one prompt stay on one side of the cut, also where the prompt is only guessed."""

import hashlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.data.read.columns import Tally
from mixalign.data.read.cut import cut, prompt_keys
from mixalign.data.read.rows import Rows, recognise
from mixalign.data.read.sources import TaskSpec, load_task
from mixalign.data.read.table import Table
from mixalign.errors import MixalignError
from tests.data.read.test_discover import write

ANSWERS = ("I think yes", "I thought so", "I", "no", "no way", "not now", "maybe", "It is 4", "It was", "Ice")
FORMS = (
    "Question: {}\nAnswer: ",
    "Question: {}\nAnswer:\n",
    "### Instruction:\n{}\n\n### Response:\n",
    "[INST] {} [/INST] ",
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "<|user|>{}<|assistant|>",
    "\n\nHuman: {}\n\nAssistant: ",
    "Q: {}\nA: ",
    "**User:** {}\n**Assistant:** ",
)
few = settings(max_examples=60, deadline=None, derandomize=True)


def guessed(rows: list[dict]) -> Rows:
    return recognise("t", [Table("a, line", range(1, len(rows) + 1), rows)], Tally({}))


def keys_of(rows: list[dict]) -> list[str]:
    return [*prompt_keys(guessed(rows))]


def pairs(form: str, questions: list[str], seed: int = 0) -> list[dict]:
    """Six pairs a question, which share more or less of their answers."""
    draw = random.Random(seed)
    made = [(form.format(q), draw.sample(ANSWERS, 2)) for q in questions for _ in range(6)]
    return [{"chosen": prompt + two[0], "rejected": prompt + two[1]} for prompt, two in made]


@pytest.mark.parametrize("form", FORMS)
def test_pairs_of_one_question_stay_together(tmp_path, form):
    questions = [f"what is {n} + {n}?" for n in range(12)]
    splits = load_task("t", TaskSpec(path=str(write(tmp_path / "a.jsonl", pairs(form, questions)))))
    sides = {
        split: {q for q in questions for row in part if (row["prompt"] + row["chosen"]).startswith(form.format(q))}
        for split, part in splits.items()
    }
    # a tenth of twelve questions
    assert [len(part) for part in splits.values()] == [66, 6]
    assert (len(sides["train"]), len(sides["validation"])) == (11, 1)
    assert not sides["train"] & sides["validation"]


def test_prompts_that_begin_alike_without_a_mark_stay_together():
    texts = [("Say it: I think", "Say it: I thought"), ("Say it: yes", "Say it: no"), ("Sing: la", "Sing: li")]
    keys = keys_of([{"chosen": one, "rejected": two} for one, two in texts])
    assert keys == ["Say it:", "Say it:", "Sing: l"]


def test_a_file_of_one_question_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", pairs(FORMS[0], ["same"]))
    with pytest.raises(MixalignError, match=r"6 rows of one prompt.*share at their beginning counts as prompt"):
        load_task("t", TaskSpec(path=str(path)))


@given(st.lists(st.sampled_from(["a", "ab", "abc", "b", "ba", "c\nAnswer: x", "c\nAnswer: y", "c"]), min_size=2))
@few
def test_keys_do_not_depend_on_the_order(prompts):
    rows = [{"chosen": f"{prompt}1", "rejected": f"{prompt}2"} for prompt in prompts]
    forwards, backwards = keys_of(rows), keys_of(rows[::-1])
    assert forwards == backwards[::-1]


def test_explicit_prompts_are_cut_as_they_are():
    """Prompts that begin alike, and marks of answers within them, are nothing special there."""
    prompts = ["Answer: I", "Answer: I th", "Answer: no", *(f"q{'x' * n}" for n in range(9))]
    for rows in (
        [{"prompt": p, "chosen": "a", "rejected": "b"} for p in prompts],
        [{"prompt": p, "completion": "a"} for p in prompts],
    ):
        assert keys_of(rows) == prompts
        _, validation = cut("t", guessed(rows), 0.25, 7)
        hashes = {p: hashlib.blake2b(p.encode(), key=b"7", digest_size=16).digest() for p in prompts}
        assert {row["prompt"] for row in validation.examples} == {*sorted(prompts, key=hashes.__getitem__)[:3]}


def test_dialogues_of_hh_are_cut_by_their_whole_prompt():
    start = "\n\nHuman: hi\n\nAssistant:"
    longer = f"{start} hello\n\nHuman: and?\n\nAssistant:"
    rows = [{"chosen": f"{p} a", "rejected": f"{p} b"} for p in (start, longer)]
    assert keys_of(rows) == [start, longer]


def test_pairs_of_conversations_are_cut_by_their_turns():
    def talk(*texts):
        return [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 9, texts, strict=False)]

    rows = [{"chosen": talk("q", "a"), "rejected": talk("q", "b")}]
    rows += [{"chosen": talk("q", "a", "r", "c"), "rejected": talk("q", "a", "r", "d")}]
    assert keys_of(rows) == [
        json.dumps(talk("q"), sort_keys=True),
        json.dumps(talk("q", "a", "r"), sort_keys=True),
    ]


def test_a_cut_of_nothing_but_same_answers_is_refused(tmp_path):
    rows = [{"prompt": f"q{n}", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(20)]
    held = load_task("t", TaskSpec(path=str(write(tmp_path / "a.jsonl", rows))))["validation"]
    write(tmp_path / "a.jsonl", [{**row, "rejected": row["chosen"]} if row in held else row for row in rows])
    with pytest.raises(
        MixalignError, match=r"same in 2 of its 20 rows, and the 2 that were cut to validate are all of"
    ):
        load_task("t", TaskSpec(path=str(tmp_path / "a.jsonl")))
    # a cut that holds others as well is taken
    assert len(load_task("t", TaskSpec(path=str(tmp_path / "a.jsonl")), validation_fraction=0.3)["validation"]) == 6


def test_conversations_that_open_alike_are_cut_by_all_that_they_say(tmp_path):
    rows = [
        {"messages": [{"role": role, "content": text} for role, text in (("user", "Hello"), ("assistant", f"Hi {n}"))]}
        for n in range(10)
    ]
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_task("talk", TaskSpec(path=str(path)))
    assert (len(found["train"]), len(found["validation"])) == (9, 1)

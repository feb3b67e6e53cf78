"""Rows of one task that are not all alike: read rightly and said, or refused with the rows named."""

import itertools
import json
import logging

import pytest

from mixalign.data.read.formats import FORMATS, to_example
from mixalign.data.read.mixed import Sorts, sort_of
from mixalign.data.read.sources import TaskSpec, load_rows, load_task
from mixalign.data.tokens.tokenise import tokenise
from mixalign.errors import MixalignError
from mixalign.models.tiny import TinyLlama


def turn(role, text):
    return [{"role": role, "content": text}]


def rows(kind: str, number: int, start: int = 0) -> list[dict]:
    """Rows of a format; no two have the same prompt."""
    made = []
    for n in range(start, start + number):
        ask, yes, no = f"What is {n}?", f"It is {n}.", "I know not."
        user, good, bad = turn("user", ask), turn("assistant", yes), turn("assistant", no)
        made.append(
            {
                "text pair": {"prompt": ask, "chosen": yes, "rejected": no},
                "text pair, whole": {"chosen": f"{ask} {yes}", "rejected": f"{ask} {no}"},
                "turn pair": {"prompt": user, "chosen": good, "rejected": bad},
                "turn pair, whole": {"chosen": user + good, "rejected": user + bad},
                "alpaca pair": {"instruction": ask, "chosen": yes, "rejected": no},
                "text answer": {"prompt": ask, "completion": yes},
                "turn answer": {"prompt": user, "completion": good},
                "talk": {"messages": user + good},
                "alpaca": {"instruction": ask, "output": yes},
                "text": {"text": f"{ask} {yes}"},
                "ids": {"input_ids": [n, 5, 6]},
                "masked ids": {"input_ids": [n, 5, 6], "labels": [-100, -100, 6]},
                "id pair": {"prompt_ids": [n], "chosen_ids": [5], "rejected_ids": [6]},
            }[kind]
        )
    return made


PAIRS = ("text pair", "text pair, whole", "turn pair", "turn pair, whole", "alpaca pair", "id pair")
SINGLE = ("text answer", "turn answer", "talk", "alpaca", "text", "ids", "masked ids")
TURNS = {"turn pair", "turn pair, whole", "alpaca pair", "turn answer", "talk", "alpaca"}  # with a chat template
IDS = {"ids", "masked ids", "id pair"}
MIXES = [mix for group in (PAIRS, SINGLE) for mix in itertools.combinations(group, 2)]


def form(kind):
    return "turns" if kind in TURNS else "ids" if kind in IDS else "text"


def load(tmp_path, made, **spec):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return load_task("a", TaskSpec(path=str(path), **spec), chat=True)


@pytest.mark.parametrize("mix", MIXES, ids=" + ".join)
def test_of_every_two_formats_the_rows_are_each_as_alone_and_named_or_refused(tmp_path, mix, caplog):
    first, second = rows(mix[0], 6), rows(mix[1], 6, 6)
    if form(mix[0]) != form(mix[1]):
        with pytest.raises(MixalignError, match=r"(?s)`a` mixes .*a.jsonl, line 1.* and .*a.jsonl, line 7\)"):
            load(tmp_path, first + second)
        return
    if mix == ("text pair", "text pair, whole"):
        with pytest.raises(
            MixalignError, match=r"6 of 12 rows have no `prompt` \(the first: .*line 7\), and the others"
        ):
            load(tmp_path, first + second)
        return
    with caplog.at_level(logging.WARNING):
        found = load(tmp_path, first + second)
    assert "its rows are of 2 formats" in caplog.text
    assert "line 1)" in caplog.text
    assert "line 7)" in caplog.text
    alone = [to_example(row, {}, chat=True) for row in first + second]
    assert all(row in alone for part in found.values() for row in part)
    assert sum(map(len, found.values())) == 12


def test_rows_of_one_format_are_nothing_to_speak_of(tmp_path, caplog):
    for kind in (*PAIRS, *SINGLE):
        load(tmp_path, rows(kind, 12))
    optional = [{**row, **({"input": "x"} if n % 2 else {})} for n, row in enumerate(rows("alpaca", 12))]
    load(tmp_path, optional)
    assert "formats" not in caplog.text


def test_splits_of_one_task_are_of_one_form(tmp_path):
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows("turn pair", 4, 20)))
    with pytest.raises(MixalignError, match=r"line 1.* and conversations .*held.jsonl, line 1"):
        load(tmp_path, rows("text pair", 6), validation=str(tmp_path / "held.jsonl"))
    with pytest.raises(MixalignError, match="mixes plain text"):
        load_rows_of(tmp_path, rows("text pair", 6) + rows("turn pair", 6, 6))


def load_rows_of(tmp_path, made):
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return load_rows("b", TaskSpec(path=str(tmp_path / "b.jsonl")), chat=True)


@pytest.mark.parametrize("kinds", [("text pair", "turn pair"), ("text answer", "turn answer")])
def test_texts_as_turns_give_the_tokens_of_conversations(tmp_path, kinds):
    """Also where a part of the rows are conversations already."""
    tokenizer = TinyLlama(chat_template="chatml").tokenizer()
    plain, talks = (rows(kind, 8) for kind in kinds)
    front = [{**row, "system": "Be brief."} for row in plain], [{**row, "system": "Be brief."} for row in talks]
    for texts, turns in ((plain, talks), (plain[:4] + talks[4:], talks), front):
        made = [
            tokenise(part["train"], tokenizer, task="a", form="supervised", max_length=200)[0]
            for part in (load(tmp_path, texts, apply_chat_template=True), load(tmp_path, turns))
        ]
        assert made[0].ids_T.tolist() == made[1].ids_T.tolist()
        assert made[0].supervised_T.tolist() == made[1].supervised_T.tolist()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "this row, of text, has no `prompt` of its own"),
        ("text pair, whole", "of chosen .* rejected, has no `prompt` of its own"),
    ],
)
def test_texts_without_a_question_cannot_become_turns(tmp_path, kind, words):
    with pytest.raises(MixalignError, match=f"line 1: `apply_chat_template` .* {words}"):
        load(tmp_path, rows(kind, 6), apply_chat_template=True)


def test_a_template_is_not_written_twice_nor_without_one(tmp_path):
    row = {"prompt": "<|im_start|>user\na?<|im_end|>\n<|im_start|>assistant\n", "completion": "b"}
    with pytest.raises(MixalignError, match="a chat template wrote it already"):
        to_example(row, {}, turns=True)
    with pytest.raises(MixalignError, match="`prompt` is empty"):
        to_example({"prompt": "", "completion": "b"}, {}, turns=True)
    with pytest.raises(MixalignError, match="`apply_chat_template`, but the tokenizer has no chat template"):
        load_task("a", TaskSpec(path=str(tmp_path), apply_chat_template=True))
    with pytest.raises(MixalignError, match=r"apply_chat_template` is 'yes'.*true or false"):
        TaskSpec.from_mapping("a", {"apply_chat_template": "yes"})


def test_sorts_know_every_format():
    sorts = Sorts()
    for kind in (*PAIRS, *SINGLE):
        (row,) = rows(kind, 1)
        required = next(columns for columns, _, _ in FORMATS if {*columns} <= {*row})
        sort = sort_of(required, to_example(row, {}, chat=True), [*row])
        assert sort.form == form(kind)
        sorts.add(sort, kind)
    assert len(sorts.count) == len(PAIRS) + len(SINGLE)

"""Rows with a verdict: from their columns to a batch."""

import json

import numpy as np
import pytest
import torch

from mixalign.data.batches.collate import collate
from mixalign.data.dataset import TaskDataset
from mixalign.data.read.formats import example_kind, to_example
from mixalign.data.read.sources import TaskSpec, load_task
from mixalign.data.tokens.cache import TokenCache
from mixalign.data.tokens.tokenise import tokenise
from mixalign.data.tokens.unpaired import split_pairs, with_mismatched
from mixalign.errors import MixalignError
from mixalign.models.tiny import TinyLlama

ROWS = [
    {"prompt": "one ", "completion": "a", "label": True},
    {"prompt": "two ", "completion": "bb", "label": False},
    {"prompt": "two ", "completion": "ccc", "label": True},
    {"prompt": "three ", "completion": "dddd", "label": False},
]
PAIRS = [{"prompt": "p", "chosen": "yes", "rejected": "no"}, {"prompt": "q", "chosen": "right", "rejected": "wrong"}]


@pytest.fixture(scope="module")
def tokenizer():
    return TinyLlama().tokenizer()


def table_of(rows, tokenizer, form="mismatched", max_length=32):
    return tokenise(rows, tokenizer, task="t", form=form, max_length=max_length)[0]


def text(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


def answers(table, tokenizer, place):
    return [text(tokenizer, table[n]["completions"][place]) for n in range(len(table))]


def test_a_row_with_a_verdict_is_recognised():
    example = to_example(ROWS[1], {})
    assert example == ROWS[1]
    assert example_kind(example) == "unpaired"
    renamed = to_example({"q": "a", "a": "b", "liked": True}, {"prompt": "q", "completion": "a", "label": "liked"})
    assert renamed["label"] is True


def test_pairs_are_split_chosen_first():
    found = split_pairs([*PAIRS, ROWS[0]])
    assert [(row["completion"], row["label"]) for row in found] == [
        ("yes", True), ("right", True), ("a", True), ("no", False), ("wrong", False),
    ]  # fmt: skip
    assert set(found[0]) == {"prompt", "completion", "label"}


def test_every_row_gets_the_answer_of_the_nearest_row_above_with_another_prompt(tokenizer):
    table = table_of(ROWS, tokenizer)
    assert answers(table, tokenizer, 0) == ["a", "bb", "ccc", "dddd"]
    assert answers(table, tokenizer, 1) == ["dddd", "a", "a", "ccc"]
    assert table.columns["label"].tolist() == [True, False, True, False]
    assert all(mark.all() for n in range(4) for mark in table[n]["supervised"])


def test_the_other_answer_is_cut_at_the_end(tokenizer):
    """BOS and a prompt are 5 or 7 tokens; `ccc` and its end are 4, of which 1 fits behind the last prompt."""
    table = table_of(ROWS, tokenizer, max_length=8)
    assert [len(table[n]["completions"][0]) for n in range(4)] == [2, 3, 3, 1]
    assert [len(table[n]["completions"][1]) for n in range(4)] == [1, 2, 2, 1]  # what was cut stays cut


def test_without_a_prompt_the_first_token_is_not_predicted(tokenizer):
    table = table_of([{"prompt": "", "completion": "ab", "label": True}, ROWS[0]], tokenizer)
    first = table[0]
    if len(first["prompt"]) == 0:
        assert [mark.tolist()[:2] for mark in first["supervised"]] == [[False, True], [False, True]]
    assert collate([table], np.array([0]), np.array([0]))["predict_N"].min() >= 0


def test_unpaired_rows_have_one_answer(tokenizer):
    table = table_of(ROWS, tokenizer, "unpaired")
    assert table.num_completions == 1
    assert table.columns["label"].tolist() == [True, False, True, False]


@pytest.mark.parametrize("form", ["unpaired", "mismatched"])
def test_the_row_id_depends_on_the_label(tokenizer, form):
    flipped = [row | {"label": not row["label"]} for row in ROWS]
    ids, others = (set(table_of(rows, tokenizer, form).row_id_N.tolist()) for rows in (ROWS, flipped))
    assert len(ids) == 4
    assert not ids & others
    assert ids == set(table_of(ROWS, tokenizer, form).row_id_N.tolist())


def test_labels_stay_with_their_rows_when_others_are_dropped(tokenizer):
    rows = [{"prompt": "far too long " * 9, "completion": "x", "label": False}, *ROWS]
    assert table_of(rows, tokenizer).columns["label"].tolist() == [True, False, True, False]


def test_the_first_completions_of_labelled_rows_are_the_desirable_ones(tokenizer):
    chosen = table_of(ROWS, tokenizer).first_completion()
    assert answers(chosen, tokenizer, 0) == ["a", "ccc"]
    assert chosen.num_completions == 1
    assert chosen.num_tokens_NS.tolist() == [[2], [4]]  # and the end of the text


def test_weights_stay_with_their_rows_when_answers_are_put_beside(tokenizer):
    table, _ = tokenise(ROWS, tokenizer, task="t", form="unpaired", max_length=32)
    table.attach("weight", np.array([0, 1, 2, 3], np.float32))
    assert with_mismatched(table, 32).columns["weight"].tolist() == [0, 1, 2, 3]
    assert table.first_completion().columns["weight"].tolist() == [0, 2]


def test_a_batch_carries_the_labels(tokenizer):
    tables = [table_of(ROWS, tokenizer), table_of(PAIRS, tokenizer)]
    batch = collate(tables, np.array([1, 0, 1]), np.array([3, 1, 0]))
    assert batch["label_B"].tolist() == [False, False, True]
    assert batch["label_B"].dtype == torch.bool


def test_labels_are_saved_with_the_rows(tokenizer, tmp_path):
    table = table_of(ROWS, tokenizer)
    table.save(tmp_path / "t.safetensors")
    loaded, _ = TaskDataset.load("t", tmp_path / "t.safetensors", labelled=True)
    assert loaded.columns["label"].tolist() == table.columns["label"].tolist()
    assert not TaskDataset.load("t", tmp_path / "t.safetensors")[0].columns


def test_a_cached_table_has_its_labels(tokenizer, tmp_path):
    rows = [{"prompt": f"{n} ", "completion": "yes", "label": n % 3 == 0} for n in range(1000)]
    cache = TokenCache(tokenizer, tmp_path)
    for _ in range(2):
        table, _ = cache.tokenise(rows, task="t", form="mismatched", max_length=32)
        assert table.columns["label"].tolist() == [row["label"] for row in rows]
    assert len(list(tmp_path.iterdir())) == 1


REFUSED = [
    (ROWS, "supervised", "row 1 is an unpaired preference.*objective=kto"),
    (ROWS, "preference", "row 1 has no `chosen` and `rejected`"),
    ([{"prompt": "a", "completion": "b"}], "mismatched", "row 1 has no `label` of true or false.*objective=kto needs"),
    ([{"messages": [{"role": "user", "content": "a"}]}], "unpaired", "row 1 has no `label`"),
]


@pytest.mark.parametrize(("rows", "form", "message"), REFUSED, ids=["sft", "dpo", "answers", "messages"])
def test_other_objectives_and_other_rows_are_refused(tokenizer, rows, form, message):
    with pytest.raises(MixalignError, match=message):
        table_of(rows, tokenizer, form)


def test_a_task_whose_rows_have_labels_and_have_none_is_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (*ROWS, {"prompt": "a", "completion": "b"})))
    with pytest.raises(MixalignError, match=r"mixes rows with a single answer .such as row 5.* and rows with a label"):
        load_task("t", TaskSpec(path=str(path)))

"""Splits whose rows are trained on are refused: by name, and by what they hold."""

import json

import pytest

from mixalign.data.read.overlap import RowsReport
from mixalign.data.read.sources import TaskSpec, load_task
from mixalign.errors import MixalignError
from tests.data.read.test_discover import rows, write


def load(path, **spec):
    return load_task("maths", TaskSpec(path=str(path), **spec))


@pytest.mark.parametrize("side", ["validation", "test"])
@pytest.mark.parametrize(
    ("split", "other", "shared"),
    [
        ("train", "train", "1 to 20"),
        ("training", "train", "1 to 20"),
        ("train[:50%]", "train[40%:]", "9 to 10"),
        ("train[10:]", "train[:11]", "11 to 11"),
        ("train[:5]+train[10:15]", "train[14:]", "15 to 15"),
        ("train", "train[:1]", "1 to 1"),
    ],
)
def test_expressions_that_overlap(tmp_path, side, split, other, shared):
    write(tmp_path / "train.jsonl", rows(20))
    with pytest.raises(MixalignError, match=r"^Task `maths`: ") as caught:
        load(tmp_path, split=split, **{side: other})
    said = f"`{side}: {other}` overlaps what is trained on, `split: {split}`: both read"
    assert said in str(caught.value)
    assert f"train.jsonl, line {shared}." in str(caught.value)


def test_expressions_that_do_not_overlap(tmp_path):
    write(tmp_path / "train.jsonl", rows(20))
    splits = load(tmp_path, split="train[:5]+train[10:]", validation="train[5:8]", test="train[8:10]")
    assert {split: len(part) for split, part in splits.items()} == {"train": 15, "validation": 3, "test": 2}


def test_slices_over_shards(tmp_path):
    for n in range(3):
        write(tmp_path / f"train-0000{n}-of-00003.jsonl", rows(4, 4 * n))
    splits = load(tmp_path, split="train[:6]", validation="train[6:]")
    assert [len(part) for part in splits.values()] == [6, 6]
    with pytest.raises(MixalignError, match=r"both read .*train-00001-of-00003\.jsonl, line 2 to 2"):
        load(tmp_path, split="train[:6]", validation="train[5:]")


def test_the_file_that_is_trained_on(tmp_path):
    path = str(write(tmp_path / "a.jsonl", rows(20)))
    with pytest.raises(MixalignError, match=r"a\.jsonl` overlaps what is trained on"):
        load(path, validation=path)
    # under another name its rows give it away
    (tmp_path / "b.jsonl").symlink_to(path)
    with pytest.raises(MixalignError, match=r"20 of the 20 rows of validation are trained on as well, with the same"):
        load(path, validation=str(tmp_path / "b.jsonl"))


@pytest.mark.parametrize("side", ["validation", "test"])
def test_rows_that_are_on_two_sides(tmp_path, caplog, side):
    write(tmp_path / "train.jsonl", rows(20))
    write(tmp_path / "validation.jsonl", rows(5, 100))
    write(tmp_path / f"{side}.jsonl", [*rows(6, 40), *rows(3, 7)])
    with pytest.raises(MixalignError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        f"Task `maths`: 3 of the 9 rows of {side} are trained on as well, with the same prompt and answers, such as "
        f"row 7 of {side}, `question 7`. Remove them on one side, or set `data.tasks.maths.on_overlap=drop`, which "
        "leaves out the 3 rows of train."
    )
    splits = load(tmp_path, on_overlap="drop")
    assert splits["train"] == rows(7) + rows(10, 10)
    assert len(splits[side]) == 9
    assert "Task `maths`: 3 training rows are left out, which are in validation or test as well." in caplog.text


def test_of_a_single_row_it_is_said_in_the_singular(tmp_path, caplog):
    write(tmp_path / "train.jsonl", rows(20))
    write(tmp_path / "validation.jsonl", rows(5, 100))
    write(tmp_path / "test.jsonl", [*rows(2, 40), *rows(1, 7), *rows(1, 100), {**rows(1)[0], "completion": "other"}])
    with pytest.raises(MixalignError) as caught:
        load(tmp_path)
    assert str(caught.value) == (
        "Task `maths`: 1 of the 5 rows of test is trained on as well, with the same prompt and answers: row 3 of test, "
        "`question 7`. Remove it on one side, or set `data.tasks.maths.on_overlap=drop`, which leaves out the 1 row of "
        "train."
    )
    load(tmp_path, on_overlap="drop")
    assert [record.getMessage() for record in caplog.records] == [
        "Task `maths`: 1 training row is left out, which is in validation or test as well.",
        "Task `maths`: 1 of the 5 rows of test has a prompt that is trained on with other answers.",
        "Task `maths`: 1 row is in validation and in test.",
    ]


def test_a_drop_that_leaves_nothing(tmp_path):
    write(tmp_path / "train.jsonl", rows(3))
    write(tmp_path / "dev.jsonl", rows(4))
    with pytest.raises(MixalignError, match=r"all 3 training rows are in validation or test as well"):
        load(tmp_path, on_overlap="drop")


def test_a_cut_and_a_test_file(tmp_path):
    """The rows that are cut off to validate may be in the test file; those that stay may not."""
    write(tmp_path / "train.jsonl", rows(20))
    held = load(tmp_path)["validation"]
    write(tmp_path / "test.jsonl", held)
    assert load(tmp_path)["test"] == held
    write(tmp_path / "test.jsonl", rows(20))
    with pytest.raises(MixalignError, match=r"18 of the 20 rows of test are trained on"):
        load(tmp_path)


def test_the_same_prompt_with_other_answers_is_a_warning(tmp_path, caplog):
    write(tmp_path / "train.jsonl", rows(20))
    write(tmp_path / "dev.jsonl", [*rows(2, 90), *({**row, "completion": "other"} for row in rows(4))])
    write(tmp_path / "test.jsonl", rows(2, 90))
    done = load_task("maths", TaskSpec(path=str(tmp_path)))
    assert done.look.reports["validation"] == RowsReport(rows=6, duplicates=0, same_prompt=0, trained_prompts=4)
    assert [record.getMessage() for record in caplog.records] == [
        "Task `maths`: 4 of the 6 rows of validation have a prompt that is trained on with other answers.",
        "Task `maths`: 2 rows are in validation and in test.",
    ]


def test_repeated_rows_are_counted(tmp_path):
    again = [{"completion": "answer 3", "prompt": "question 3"}] * 2  # the order of names is nothing
    other = [{"prompt": "question 4", "completion": "other"}]
    write(tmp_path / "train.jsonl", rows(10) + again + other)
    write(tmp_path / "dev.jsonl", rows(2, 20) * 2)
    done = load_task("maths", TaskSpec(path=str(tmp_path)))
    assert done.look.reports == {
        "train": RowsReport(rows=13, duplicates=2, same_prompt=1),
        "validation": RowsReport(rows=4, duplicates=2, same_prompt=0),
    }
    assert len(done["train"]) == 13


def test_a_row_on_two_sides_is_named_by_what_it_asks(tmp_path):
    def made(n):
        turns = [
            ("system", "Be kind. " * 30),
            ("user", f"{'Write this date for a computer: ' * 4}{n}"),
            ("assistant", "a"),
        ]
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    write(tmp_path / "train.jsonl", [*map(made, range(20))])
    write(tmp_path / "validation.jsonl", [*map(made, (30, 17))])
    with pytest.raises(
        MixalignError, match=r"row 2 of validation, `Write this date for a computer \.\.\. .*computer: 17`"
    ):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["pairs", "conversations", "labels", "texts"])
def test_overlap_is_seen_in_every_format(tmp_path, kind):
    ask, say = [{"role": "user", "content": "q"}], [{"role": "assistant", "content": "a"}]
    made = {
        "pairs": ({"prompt": "q", "chosen": "a"}, "rejected"),
        "conversations": ({"messages": ask + say}, "tools"),
        "labels": ({"prompt": "q", "completion": "a"}, "label"),
        "texts": ({"text": "q"}, "chat_template_kwargs"),
    }
    row, differs = made[kind]
    values = {"rejected": ("b", "c"), "tools": ([{"a": 1}], [{"a": 2}]), "label": (True, False)}
    one, two = ({**row, differs: value} for value in values.get(differs, ({"x": 1}, {"x": 2})))
    write(tmp_path / "train.jsonl", [one])
    write(tmp_path / "dev.jsonl", [two])
    assert load_task("maths", TaskSpec(path=str(tmp_path))).look.reports["validation"].trained_prompts == 1
    write(tmp_path / "dev.jsonl", [two, one])
    with pytest.raises(MixalignError, match=r"1 of the 2 rows of validation is trained on"):
        load(tmp_path)
    assert json.loads((tmp_path / "train.jsonl").read_text()) == one


def test_texts_that_begin_with_a_short_prompt_in_every_row(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Say {n}", "chosen": f"Say {n} yes", "rejected": f"Say {n} no"} for n in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(MixalignError, match=r"Task `t`: `chosen` and `rejected` begin with `prompt` in all 9 rows"):
        load_task("t", TaskSpec(path=str(path)))
    rows[0] = {"prompt": "Say 0", "chosen": "yes", "rejected": "no"}  # by chance then
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(load_task("t", TaskSpec(path=str(path)))["train"]) == 8

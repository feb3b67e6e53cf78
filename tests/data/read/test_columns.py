"""Every column of a task is used, declared unused, named in a warning, or refused; none is lost without a word."""

import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.data.read.columns import ColumnUse
from mixalign.data.read.formats import COLUMNS, read_row, to_example
from mixalign.data.read.sources import TaskSpec, load_rows, load_task
from mixalign.errors import MixalignError

few = settings(max_examples=150, deadline=None, derandomize=True)
ASK, SAY, NO = (
    {"role": role, "content": text} for role, text in (("user", "a?"), ("assistant", "b"), ("assistant", "c"))
)


def load(tmp_path, rows, **spec):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_task("t", TaskSpec.from_mapping("t", {"path": str(path), **spec}))


def answers(count: int = 4, **more) -> list[dict]:
    return [{"prompt": f"p{n}", "completion": "c", **more} for n in range(count)]


def test_columns_are_used_unused_or_declared(tmp_path, caplog):
    rows = answers(id=3, source="web", empty="", nothing=None)
    found = load(tmp_path, [*rows, {**rows[0], "score": 0}], columns={"source": None, "completion": "completion"})
    assert found.look.columns == ColumnUse(("prompt", "completion"), ("id", "score"), ("source",))
    # one warning a task, whatever its rows and splits
    assert [record.getMessage() for record in caplog.records] == [
        "Task `t`: nothing is learned from `id`, `score`. Declare what should not be as "
        "`columns: {id: null, score: null}`."
    ]


def test_nothing_is_said_where_every_column_is_used_or_declared(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        load(tmp_path, answers(id=3), columns={"id": None})
        load_rows("t", TaskSpec(path=str(tmp_path / "t.jsonl"), columns={"id": None}))
    assert not caplog.records
    load_rows("t", TaskSpec(path=str(tmp_path / "t.jsonl")))
    assert "nothing is learned from `id`" in caplog.text


def test_columns_that_are_declared_unused_are_as_good_as_absent():
    row = {"prompt": "p", "chosen": "sky is blue", "rejected": "sky is red", "messages": [ASK]}
    assert to_example(row, {"prompt": None})["prompt"] == "sky is"
    assert to_example(row, {"prompt": None, "chosen": None})["messages"] == [ASK]
    # a column of ours that is mapped hides the row's of that name
    assert read_row({"prompt": "p", "q": "q", "completion": "c"}, {"prompt": "q"})[1] >= {"q", "completion"}
    assert "prompt" not in read_row({"prompt": "p", "q": "q", "completion": "c"}, {"prompt": "q"})[1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"imges": None}, "declares `imges` unused, but no row has a column `imges`. Did you mean `images`"),
        ({"prompt": "question", "question": None}, "reads `question` as `prompt`, and declares it unused"),
        ({"x": 3}, "`data.tasks.t.columns.x` is not a column that we read"),
        ({3: None}, "a column that is declared unused"),
    ],
)
def test_declarations_that_cannot_be(tmp_path, columns, message):
    with pytest.raises(MixalignError, match=message):
        load(tmp_path, answers(question="q", images=[]), columns=columns)


PAIR = {"chosen": "It is 1.", "rejected": "It was 0."}
BOTH = {"chosen": [ASK, SAY], "rejected": [ASK, NO]}


@pytest.mark.parametrize("name", ["question", "Query", "input", "instruction_", "context", "problem", "user"])
def test_a_question_beside_a_pair_is_not_dropped(name):
    """As in `{"system": ..., "question": ..., "chosen": ..., "rejected": ...}`, whose prompt was empty."""
    row = {"system": "Be brief.", name: "What is 0+1?", **PAIR}
    if name.endswith("_"):  # no name of a question
        assert to_example(row, {})["prompt"] == "It"
        return
    with pytest.raises(MixalignError, match=rf"`{name}` is 'What is 0\+1\?'.*columns: {{prompt: {name}}}"):
        to_example(row, {})
    assert to_example(row, {"prompt": name})["prompt"] == "What is 0+1?"
    assert to_example(row, {name: None})["prompt"] == "It"


def test_a_question_that_the_answers_hold_is_no_prompt_beside_them():
    assert to_example({"question": "Sky? ", "chosen": "Sky? Blue", "rejected": "Sky? Red"}, {})["prompt"] == "Sky?"
    assert to_example({"question": "a?", **BOTH}, {})["prompt"] == [ASK]
    system = {"role": "system", "content": "s"}
    with pytest.raises(MixalignError, match=r"columns: {prompt: question}"):
        to_example({"question": "a?", "chosen": [system, SAY], "rejected": [system, NO]}, {})


def test_pairs_without_any_prompt_are_refused(tmp_path):
    rows = [{"chosen": f"yes {n}", "rejected": f"no {n}", "ask": "why?"} for n in range(5)]
    with pytest.raises(MixalignError, match=r"Task `t`: the prompts of all 5 rows are empty.*Is it one of ask\?"):
        load(tmp_path, rows)
    explicit = [{"prompt": "", "chosen": f"yes {n}", "rejected": "no"} for n in range(5)]
    with pytest.raises(MixalignError, match="the prompts of all 5 rows are empty"):
        load(tmp_path, explicit)
    assert len(load(tmp_path, [*explicit, {"prompt": "p", **PAIR}])["train"]) == 5


@pytest.mark.parametrize("name", ["prompt", "conversations", "instruction"])
def test_a_null_does_not_change_the_format(tmp_path, name):
    full = {"prompt": "p", "conversations": [ASK], "instruction": "i"}
    other = {"prompt": PAIR, "instruction": PAIR, "conversations": BOTH}[name]
    rows = [{name: full[name] if n != 2 else None, **other} for n in range(4)]
    if name == "conversations":
        rows = [{**row, "chosen": [SAY], "rejected": [NO]} if row[name] else row for row in rows]
    with pytest.raises(MixalignError, match=rf"line 3: `{name}` is null beside `chosen` and `rejected`.*{name}: null"):
        load(tmp_path, rows)


def test_a_null_of_a_mapped_column_is_named_by_the_name_that_it_has():
    with pytest.raises(MixalignError, match=r"columns are question \(null\), chosen, rejected"):
        to_example({"question": None, "chosen": "a b", "rejected": "a c"}, {"prompt": "question"})


@pytest.mark.parametrize(
    "name", ["images", "image", "audio", "audios", "video", "videos", "Image_URLs", "pixel_values"]
)
def test_media_are_refused_by_name(name):
    row = {"messages": [ASK, SAY], name: ["cat.png"]}
    with pytest.raises(MixalignError, match=rf"column `{name}` is \['cat.png'\].*columns: {{{name}: null}}"):
        to_example(row, {})
    assert to_example(row, {name: None}) == to_example({**row, name: []}, {}) == {"messages": [ASK, SAY]}


@pytest.mark.parametrize(
    "value",
    [{"bytes": b"x", "path": None}, [{"bytes": None, "path": "a.png"}], {"array": [0.1], "sampling_rate": 8000}],
)
def test_media_are_refused_whatever_their_column_is_called(value):
    with pytest.raises(MixalignError, match=r"column `photo` is .*only text is learned from"):
        to_example({"messages": [ASK, SAY], "photo": value}, {})


@pytest.fixture
def media(tmp_path):
    """A data set on disk with an image, a list of images and a sound in each row, none of which can be decoded."""
    import datasets

    cell = {"bytes": b"no such thing", "path": "a"}
    rows = [{"prompt": f"p{n}", "completion": "c", "image": cell, "more": [cell], "sound": cell} for n in range(4)]
    table = datasets.Dataset.from_list(rows)
    image = datasets.Image()
    table.info.features.update(image=image, more=datasets.List(image), sound=datasets.Audio())
    with pytest.raises((OSError, ImportError)):
        table[0]
    table.save_to_disk(str(tmp_path / "saved"))
    return str(tmp_path / "saved")


def test_media_of_a_table_are_refused_and_never_decoded(media):
    import datasets

    datasets.disable_progress_bars()
    with pytest.raises(MixalignError, match=r"row 1: column `image` is {'bytes': b'no such thing'"):
        load_task("t", TaskSpec(path=media))
    with pytest.raises(MixalignError, match=r"row 1: column `sound`"):
        load_task("t", TaskSpec(path=media, columns={"image": None, "more": None}))
    found = load_task("t", TaskSpec(path=media, columns={"image": None, "more": None, "sound": None}))
    assert found.look.columns == ColumnUse(("prompt", "completion"), (), ("image", "more", "sound"))
    assert len(found["train"]) == 3


def test_images_in_the_parts_of_a_table_are_refused_and_never_decoded(tmp_path):
    import datasets

    part = {"type": "image", "image": {"bytes": b"no such thing", "path": "a"}}
    rows = [{"messages": [{"role": "user", "content": [part]}, {"role": "assistant", "content": []}]}]
    table = datasets.Dataset.from_list(rows)
    table.info.features["messages"].feature["content"].feature["image"] = datasets.Image()
    table.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(MixalignError, match="part 1 of turn 1 of `messages` is of the type 'image'"):
        load_task("t", TaskSpec(path=str(tmp_path / "saved")))


LONG = "What colour is the sky today?"


def test_a_prompt_in_both_texts_is_refused():
    row = {"prompt": LONG, "chosen": f"{LONG} Blue.", "rejected": f"{LONG} Red."}
    with pytest.raises(MixalignError, match="both begin with `prompt`"):
        to_example(row, {})
    assert to_example(row, {"prompt": None}) == {"prompt": LONG, "chosen": " Blue.", "rejected": " Red."}
    # one answer alone, or a short prompt, by chance
    for fine in ({**row, "rejected": "Red."}, {"prompt": "Sky", "chosen": "Sky is", "rejected": "Sky was"}):
        assert to_example(fine, {}) == fine


def test_a_prompt_in_both_conversations_is_taken_out_of_them():
    right = {"prompt": [ASK], "chosen": [SAY], "rejected": [NO]}
    assert to_example({"prompt": [ASK], **BOTH}, {}) == right
    assert to_example({"conversations": [ASK], **BOTH}, {}) == right
    assert to_example({"prompt": [ASK], "completion": [ASK, SAY]}, {}) == {"prompt": [ASK], "completion": [SAY]}
    with pytest.raises(MixalignError, match="`rejected` begins with the turns of `prompt`, and the other answer"):
        to_example({"prompt": [ASK], "chosen": [SAY], "rejected": [ASK, NO]}, {})


def test_a_prompt_as_text_may_be_an_earlier_turn_of_both_conversations():
    more = {"role": "user", "content": "and?"}
    row = {"prompt": "a?", "chosen": [ASK, SAY, more, SAY], "rejected": [ASK, SAY, more, NO]}
    assert to_example(row, {}) == {"prompt": [ASK, SAY, more], "chosen": [SAY], "rejected": [NO]}


VALUE = st.sampled_from(
    [None, "", "text", "a?", 0, 1.5, True, [], {}, [ASK, SAY], [SAY], [ASK], {"bytes": 1, "path": 2}]
)
NAMES = st.sampled_from([*COLUMNS, "id", "question", "images", "extra"])


@given(st.dictionaries(NAMES, VALUE, max_size=7), st.sets(NAMES, max_size=2), st.booleans())
@few
def test_every_column_with_a_value_is_used_or_unused_or_the_row_is_refused(row, declared, chat):
    """What is not used makes no difference, and what is used is there."""
    columns = dict.fromkeys(declared)
    try:
        example, used, _ = read_row(row, columns, chat=chat)
    except MixalignError:
        return
    assert not used & declared
    kept = {name: value for name, value in row.items() if name in used}
    assert to_example(kept, {}, chat=chat) == example

"""What a turn of a conversation may look like, and what it becomes."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.data.read.formats import to_example
from mixalign.errors import MixalignError

few = settings(max_examples=100, deadline=None, derandomize=True)


def turn(role: str, content, **more) -> dict:
    return {"role": role, "content": content, **more}


def wrap(text: str, cuts: list[int], padded: bool) -> list[dict]:
    """A text as parts, cut at some places; padded as a table of texts and images writes them."""
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    parts = [{"type": "text", "text": text[a:b]} for a, b in pairwise(edges)]
    return [{**part, "image_url": None} for part in parts] if padded else parts


ROLE = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
TURN = st.tuples(ROLE, st.text(max_size=8), st.lists(st.integers(0, 9), max_size=3), st.booleans())


@given(st.lists(TURN, min_size=1, max_size=4), st.sampled_from(["messages", "prompt and completion", "conversations"]))
@few
def test_parts_of_text_are_the_text_in_every_role_and_format(turns, form):
    plain = [turn(role, text) for role, text, _, _ in turns]
    parts = [turn(role, wrap(text, cuts, padded)) for role, text, cuts, padded in turns]
    answer = [turn("assistant", "a")]
    rows = {
        "messages": lambda found: {"messages": found},
        "prompt and completion": lambda found: {"prompt": found, "completion": answer},
        "conversations": lambda found: {"conversations": [{"from": t["role"], "value": t["content"]} for t in found]},
    }
    assert to_example(rows[form](parts), {}) == to_example(rows[form](plain), {})


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "image_url", "image_url": {"url": "cat.png"}}, "part 2 of turn 1 of `messages` .* type 'image_url'"),
        ({"type": "image"}, "type 'image'.*images, audio, video and files are not read"),
        ({"type": "input_audio", "input_audio": {}}, "type 'input_audio'"),
        ({"type": "video", "text": None}, "type 'video'"),
        ({"image": "cat.png"}, "type None"),
        ({"type": "text", "text": 3}, r"part 2 of turn 1 of `messages` has `text` 3 \(int\)"),
        ("cat", r"part 2 of turn 1 of `messages` is 'cat' \(str\)"),
    ],
)
def test_other_parts_are_refused_by_name(part, message):
    with pytest.raises(MixalignError, match=message):
        to_example({"messages": [turn("user", [{"type": "text", "text": "What?"}, part])]}, {})


@pytest.mark.parametrize("role", ["USER", "narrator", "ipython", "User", "asistant", "thinking"])
def test_unknown_roles_are_refused_by_name(role):
    with pytest.raises(
        MixalignError, match=f"turn 1 of `messages` has the role '{role}'.*system, developer.*human, gpt"
    ):
        to_example({"messages": [turn(role, "a"), turn("assistant", "b")]}, {})


def test_media_of_a_turn_are_refused_by_name():
    with pytest.raises(MixalignError, match=r"turn 1 of `messages` has `images` \['cat.png'\]"):
        to_example({"messages": [turn("user", "a", images=["cat.png"])]}, {})


LEARNED = {1: [{"weight": 1}, {"train": True}, {"loss": True}, {"weight": 1.0, "loss": 1}]}
LEARNED[0] = [{"weight": 0}, {"train": False}, {"loss": False}, {"weight": 0.0, "train": False}]


@pytest.mark.parametrize(("weight", "given"), [(weight, given) for weight in LEARNED for given in LEARNED[weight]])
def test_a_turn_says_whether_it_is_learned(weight, given):
    ask, first, last = turn("user", "a"), turn("assistant", "b"), turn("assistant", "c")
    example = to_example({"messages": [ask, {**first, **given}, ask, {**last, "train": None}]}, {})
    assert example["messages"] == [ask, {**first, "weight": weight}, ask, last]
    assert type(example["messages"][1]["weight"]) is int
    # a prompt is never learned, and an answer is
    assert to_example({"prompt": [ask, {**first, **given}, ask], "completion": [last]}, {})["prompt"] == [
        ask,
        first,
        ask,
    ]
    for name, row in {
        "completion": {"prompt": [ask], "completion": [{**first, **given}]},
        "chosen": {"prompt": [ask], "chosen": [{**first, **given}], "rejected": [last]},
        "rejected": {"chosen": [ask, last], "rejected": [ask, {**first, **given}]},
    }.items():
        if weight:
            assert to_example(row, {})[name] == [first]
        else:
            with pytest.raises(MixalignError, match=f"turn 1 of `{name}` has the weight 0.*as `messages`"):
                to_example(row, {})


@pytest.mark.parametrize(
    ("role", "given", "message"),
    [
        ("assistant", {"weight": 0.5}, r"turn 2 of `messages` has `weight` 0.5 \(float\)"),
        ("assistant", {"train": "no"}, "has `train` 'no'"),
        ("assistant", {"weight": 2}, "has `weight` 2"),
        ("assistant", {"weight": 0, "train": True}, "say the opposite of each other"),
        ("assistant", {"train_detail": [{"begin_offset": 0}]}, "has `train_detail`"),
        ("user", {"weight": 1}, "of the role user and has {'weight': 1}, but only the assistant's"),
    ],
)
def test_other_weights_are_refused(role, given, message):
    with pytest.raises(MixalignError, match=message):
        to_example({"messages": [turn("user", "a"), turn(role, "b", **given)]}, {})


def test_turns_that_are_not_learned_anyway_may_say_so():
    assert to_example({"messages": [turn("user", "a", train=False), turn("assistant", "b")]}, {}) == {
        "messages": [turn("user", "a"), turn("assistant", "b")]
    }


ASK, SAY, NO, BRIEF = turn("user", "a?"), turn("assistant", "b"), turn("assistant", "c"), turn("system", "Be brief.")
BEFORE = [turn("user", "x"), turn("assistant", "y")]


@pytest.mark.parametrize("history", [[["x", "y"]], json.dumps([["x", "y"]]), BEFORE, [("x", "y")]])
@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": [ASK, SAY]}, "messages"),
        ({"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]}, "messages"),
        ({"prompt": [ASK], "completion": [SAY]}, "prompt"),
        ({"prompt": [ASK], "chosen": [SAY], "rejected": [NO]}, "prompt"),
        ({"conversations": [ASK], "chosen": SAY, "rejected": NO}, "prompt"),
        ({"chosen": [ASK, SAY], "rejected": [ASK, NO]}, "prompt"),
        ({"messages": [ASK, SAY], "rejected_response": "c"}, "prompt"),
    ],
)
def test_system_and_history_come_first(row, name, history):
    plain = to_example(row, {})
    example = to_example({**row, "system": "Be brief.", "history": history}, {})
    assert example == {**plain, name: [BRIEF, *BEFORE, *plain[name]]}
    assert to_example({**row, "system": "", "history": []}, {}) == plain


def test_a_system_prompt_is_there_once():
    row = {"messages": [BRIEF, ASK, SAY], "system": "Be brief.", "history": [["x", "y"]]}
    assert to_example(row, {})["messages"] == [BRIEF, *BEFORE, ASK, SAY]
    with pytest.raises(MixalignError, match=r"`system` is 'Be long.'.*begin with another system prompt, 'Be brief.'"):
        to_example({**row, "system": "Be long."}, {})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"system": 3}, r"`system` is 3 \(int\), but must be a text"),
        ({"history": [["x"]]}, r"entry 1 of `history` is \['x'\]"),
        ({"history": [["x", "y"], ["x", None]]}, "entry 2 of `history`"),
        ({"history": "x"}, "entry 1 of `history` is .*two texts"),
    ],
)
def test_other_histories_are_refused(more, message):
    with pytest.raises(MixalignError, match=message):
        to_example({"messages": [ASK, SAY], **more}, {})

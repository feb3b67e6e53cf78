"""Each format that a row may have, and each way in which it may be wrong."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.data.read.formats import COLUMNS, common_prefix, example_kind, prompt_key, to_example
from mixalign.errors import MixalignError

SKY = {"role": "user", "content": "What colour is the sky?"}
BLUE = {"role": "assistant", "content": "Blue."}
GREEN = {"role": "assistant", "content": "Green."}
HH = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Sky?\n\nAssistant:"

FORMATS = {
    "explicit preference": (
        {"prompt": "Sky?", "chosen": " Blue", "rejected": " Green", "id": 7},
        {"prompt": "Sky?", "chosen": " Blue", "rejected": " Green"},
    ),
    "explicit conversations": (
        {"prompt": [SKY], "chosen": [BLUE], "rejected": [GREEN]},
        {"prompt": [SKY], "chosen": [BLUE], "rejected": [GREEN]},
    ),
    # the shared space goes with the completions
    "implicit preference": (
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    ),
    "implicit conversations": (
        {"chosen": [SKY, BLUE], "rejected": [SKY, GREEN]},
        {"prompt": [SKY], "chosen": [BLUE], "rejected": [GREEN]},
    ),
    # one continues the other: the last shared turn stays with both
    "implicit, one longer": (
        {"chosen": [SKY, BLUE], "rejected": [SKY, BLUE, SKY]},
        {"prompt": [SKY], "chosen": [BLUE], "rejected": [BLUE, SKY]},
    ),
    # " Gre" is shared too, but the prompt of a dialogue ends with the assistant's tag
    "HH-RLHF": (
        {"chosen": HH + " Grey", "rejected": HH + " Green"},
        {"prompt": HH, "chosen": " Grey", "rejected": " Green"},
    ),
    "HH-RLHF without an answer": (
        {"chosen": HH, "rejected": HH + " Green"},
        {"prompt": HH, "chosen": "", "rejected": " Green"},
    ),
    "prompt repeated as a turn": (
        {"prompt": SKY["content"], "chosen": [SKY, BLUE], "rejected": [SKY, GREEN], "messages": [SKY, BLUE]},
        {"prompt": [SKY], "chosen": [BLUE], "rejected": [GREEN]},
    ),
    "completion": ({"prompt": "1+1=", "completion": "2"}, {"prompt": "1+1=", "completion": "2"}),
    "completion, conversation": (
        {"prompt": [SKY], "completion": [BLUE]},
        {"prompt": [SKY], "completion": [BLUE]},
    ),
    "messages": ({"messages": [SKY, BLUE], "prompt": "Sky?"}, {"messages": [SKY, BLUE]}),
    "text": ({"text": "The sky is blue."}, {"prompt": "", "completion": "The sky is blue."}),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": SKY["content"]}, {"from": "gpt", "value": "Blue."}]},
        {"messages": [SKY, BLUE]},
    ),
    "ShareGPT preference": (
        {
            "conversations": [{"from": "human", "value": SKY["content"]}],
            "chosen": {"from": "gpt", "value": "Blue."},
            "rejected": {"from": "gpt", "value": "Green."},
        },
        {"prompt": [SKY], "chosen": [BLUE], "rejected": [GREEN]},
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "Below is ..."},
        {"prompt": "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n", "completion": "3"},
    ),
    "Alpaca without input": (
        {"instruction": "Add.", "input": "", "output": "3"},
        {"prompt": "### Instruction:\nAdd.\n\n### Response:\n", "completion": "3"},
    ),
    "Alpaca preference": (
        {"instruction": "Add.", "chosen": "3", "rejected": "4"},
        {"prompt": "### Instruction:\nAdd.\n\n### Response:\n", "chosen": "3", "rejected": "4"},
    ),
    # tables write None into the columns that a row lacks
    "None is absent": (
        {"prompt": "Sky?", "completion": "Blue", "chosen": None, "rejected": None, "tools": None},
        {"prompt": "Sky?", "completion": "Blue"},
    ),
    "None in a message": (
        {"messages": [SKY, {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]},
        {"messages": [SKY, {"role": "assistant", "tool_calls": [{"name": "f"}]}]},
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_format_is_recognised(name):
    row, example = FORMATS[name]
    assert to_example(row, {}) == example


@pytest.mark.parametrize("write", [list, json.dumps])
def test_tools_and_template_variables_are_kept(write):
    tools = [{"name": "search", "parameters": {}}]
    row = {"messages": [SKY, BLUE], "tools": write(tools), "chat_template_kwargs": {"think": True, "x": None}}
    example = to_example(row, {})
    assert example["tools"] == tools
    assert example["chat_template_kwargs"] == {"think": True}


def test_columns_rename():
    row = {"question": "1+1=", "answer": "2"}
    expected = {"prompt": "1+1=", "completion": "2"}
    assert to_example(row, {"prompt": "question", "completion": "answer"}) == expected


def test_a_format_must_use_every_mapped_column():
    row = {"prompt": "p", "chosen": "c", "rejected": "r", "body": "b"}
    assert to_example(row, {"completion": "body"}) == {"prompt": "p", "completion": "b"}
    assert to_example(row, {"text": "body"}) == {"prompt": "", "completion": "b"}
    assert to_example(row, {"prompt": "body"}) == {"prompt": "b", "chosen": "c", "rejected": "r"}


def test_swapped_columns():
    row = {"prompt": "p", "chosen": "c", "rejected": "r"}
    assert to_example(row, {"chosen": "rejected", "rejected": "chosen"})["chosen"] == "r"


ERRORS = {
    "unknown columns": ({"question": "a", "answer": "b"}, "columns are question, answer.*columns:"),
    "null is shown": ({"prompt": "a", "chosen": None, "rejected": "b"}, r"chosen \(null\)"),
    "no columns": ({}, "columns are none"),
    "empty chosen": ({"prompt": "a", "chosen": "", "rejected": "b"}, "`chosen` is empty"),
    "empty rejected list": ({"prompt": [SKY], "chosen": [BLUE], "rejected": []}, "`rejected` is empty"),
    "text for a list": ({"prompt": [SKY], "chosen": "Blue", "rejected": [BLUE]}, "`chosen` is 'Blue' .str."),
    "number": ({"prompt": "a", "completion": 3}, r"`completion` is 3 \(int\).*must be a text"),
    "list for a text": ({"prompt": "a", "completion": ["b"]}, "`completion` is .*must be a text"),
    "messages text": ({"messages": "hello"}, "`messages` is 'hello'.*list of messages"),
    "message text": ({"messages": ["hello"]}, "turn 1 of `messages` is 'hello'.*`role` and `content`"),
    "no role": ({"messages": [SKY, {"content": "a"}]}, "turn 2 of `messages` has no `role`"),
    "no content": ({"messages": [{"role": "user"}]}, "turn 1 of `messages` has `content` None"),
    "no shared turn": ({"chosen": [BLUE], "rejected": [GREEN]}, "share no first turn"),
    "empty prompt": ({"prompt": [], "completion": [BLUE]}, "`prompt` is empty"),
    "other prompt": (
        {"prompt": "Why?", "chosen": [SKY, BLUE], "rejected": [SKY, GREEN]},
        "`prompt` is the text 'Why.'.*no user turn that both begin with says it",
    ),
    "tools": ({"messages": [SKY, BLUE], "tools": "{"}, "`tools` is a text that is not JSON"),
    "tools object": ({"messages": [SKY, BLUE], "tools": "{}"}, "must be a list of JSON schemas"),
    "half a character": (
        {"prompt": "a\ud83d", "completion": "b"},
        r"holds '\\ud83d', half of a surrogate pair",
    ),
    "variables": ({"messages": [SKY, BLUE], "chat_template_kwargs": "x"}, "must be an object"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_value(name):
    row, message = ERRORS[name]
    with pytest.raises(MixalignError, match=message):
        to_example(row, {})


def test_a_mapped_column_that_is_missing_is_named():
    with pytest.raises(MixalignError, match=r"maps `prompt` to `questoin`.*Did you mean `question`"):
        to_example({"question": "a", "answer": "b"}, {"prompt": "questoin", "completion": "answer"})


def test_prompt_key_is_the_prompt():
    pair = to_example({"prompt": "Sky?", "chosen": "a", "rejected": "b"}, {})
    assert prompt_key(pair) == "Sky?"
    assert prompt_key(to_example({"text": "body"}, {})) == "body"
    # the same question with two answers has one key
    one, two = (to_example({"messages": [SKY, answer]}, {}) for answer in (BLUE, GREEN))
    assert prompt_key(one) == prompt_key(two) == json.dumps([SKY], sort_keys=True)


TEXT = st.text(max_size=8)
few = settings(max_examples=100, deadline=None, derandomize=True)


@given(TEXT, TEXT)
@few
def test_common_prefix_is_the_longest(one, other):
    length = common_prefix(one, other)
    assert one[:length] == other[:length]
    assert one[: length + 1] != other[: length + 1] or length == min(len(one), len(other))
    assert common_prefix(list(one), list(other)) == length


@given(st.text(min_size=1), st.text(min_size=1))
@few
def test_an_implicit_pair_loses_no_character(chosen, rejected):
    example = to_example({"chosen": chosen, "rejected": rejected}, {})
    assert example["prompt"] + example["chosen"] == chosen
    assert example["prompt"] + example["rejected"] == rejected


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "from"]), inner),
    max_leaves=6,
)
NAMES = ["prompt", "chosen", "rejected", "completion", "messages", "conversations", "text", "input", "output"]


@given(st.dictionaries(st.sampled_from([*NAMES, "instruction", "tools", "label", "other"]), VALUE))
@few
def test_any_row_is_an_example_or_an_error_for_the_user(row):
    try:
        example = to_example(row, {})
    except MixalignError:
        return
    keys = {*example} - {"tools", "chat_template_kwargs"}
    assert keys in ({"prompt", "chosen", "rejected"}, {"prompt", "completion"}, {"messages"})
    assert len({type(example[key]) for key in keys}) == 1
    assert (example_kind(example) == "preference") == ("chosen" in example)
    assert isinstance(prompt_key(example), str)


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["user", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "tool_calls", "x"]), inner)
    ),
    max_leaves=8,
)
WORDS = st.text(min_size=1, max_size=5)
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "human", "gpt", "tool"]), "content": WORDS}),
    min_size=1,
    max_size=4,
)
ANSWER = TURNS.map(lambda turns: [BLUE, *turns, BLUE])


@given(st.dictionaries(st.sampled_from([*COLUMNS, "other"]), ANY), st.dictionaries(st.sampled_from(COLUMNS), TEXT))
@few
def test_any_row_with_any_columns_is_an_example_or_an_error_for_the_user(row, columns):
    columns = {ours: theirs if theirs in row else "other" for ours, theirs in columns.items()}
    try:
        example = to_example(row, columns)
    except MixalignError:
        return
    assert example_kind(example) in ("preference", "supervised", "unpaired")
    json.dumps(example, default=str).encode()


@given(
    st.one_of(
        st.fixed_dictionaries({"prompt": WORDS, "chosen": WORDS, "rejected": WORDS}),
        st.fixed_dictionaries({"prompt": TURNS, "chosen": ANSWER, "rejected": ANSWER}),
        st.fixed_dictionaries({"prompt": WORDS, "completion": WORDS}, optional={"label": st.booleans()}),
        st.fixed_dictionaries({"messages": TURNS}, optional={"tools": st.just([{"name": "f"}])}),
        st.fixed_dictionaries({"text": WORDS}),
        st.fixed_dictionaries({"instruction": WORDS, "output": WORDS}, optional={"input": WORDS}),
        st.fixed_dictionaries({"chosen": WORDS, "rejected": WORDS}),
    )
)
@few
def test_an_example_is_a_row_again(row):
    """What a format has become is read as itself, unless a text of an implicit pair ends where the other goes on."""
    example = to_example(row, {})
    if all(example.get(name) != "" for name in ("chosen", "rejected", "completion")):
        assert to_example(example, {}) == example

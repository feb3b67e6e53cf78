"""Each format that a row may have, and each way in which it may be wrong."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.data.prefix import common_prefix
from mixalign.data.read.formats import COLUMNS, example_kind, prompt_key, to_example
from mixalign.errors import MixalignError

SKY = {"role": "user", "content": "What colour is the sky?"}
BLUE = {"role": "assistant", "content": "Blue."}
GREEN = {"role": "assistant", "content": "Green."}
CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}
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
    "ms-swift": (
        {"messages": [SKY, BLUE], "rejected_response": "Green."},
        {"prompt": [SKY], "chosen": [BLUE], "rejected": [GREEN]},
    ),
    "ms-swift, turns": (
        {"messages": [SKY, BLUE, SKY, BLUE], "rejected_response": [GREEN]},
        {"prompt": [SKY, BLUE, SKY], "chosen": [BLUE], "rejected": [GREEN]},
    ),
    "ms-swift, conversations": (
        {"messages": [SKY, BLUE], "rejected_messages": [SKY, GREEN]},
        {"prompt": [SKY], "chosen": [BLUE], "rejected": [GREEN]},
    ),
    "LLaMA-Factory preference": (
        {"instruction": "Add.", "input": "", "output": ["3", "4"]},
        {"prompt": "### Instruction:\nAdd.\n\n### Response:\n", "chosen": "3", "rejected": "4"},
    ),
    "OpenAI preference": (
        {
            "input": {"messages": [SKY], "tools": [{"name": "f"}], "parallel_tool_calls": True},
            "preferred_output": [BLUE],
            "non_preferred_output": [GREEN],
        },
        {"prompt": [SKY], "chosen": [BLUE], "rejected": [GREEN], "tools": [{"name": "f"}]},
    ),
    # the best rank is 0; those between best and worst are left out
    "NeMo": (
        {
            "context": [SKY],
            "completions": [
                {"rank": 1, "completion": [SKY]},
                {"rank": 2, "completion": [GREEN]},
                {"rank": 0, "completion": [BLUE]},
            ],
        },
        {"prompt": [SKY], "chosen": [BLUE], "rejected": [GREEN]},
    ),
    "messages with a verdict": (
        {"messages": [SKY, GREEN, SKY, BLUE], "label": 0},
        {"prompt": [SKY, GREEN, SKY], "completion": [BLUE], "label": False},
    ),
    "ShareGPT with a verdict": (
        {"conversations": [SKY, BLUE], "label": "True", "system": "Be brief."},
        {"prompt": [{"role": "system", "content": "Be brief."}, SKY], "completion": [BLUE], "label": True},
    ),
    "messages as JSON text": ({"messages": json.dumps([SKY, BLUE])}, {"messages": [SKY, BLUE]}),
    "a row's weight": (
        {"prompt": "1+1=", "completion": "2", "weight": "0.5"},
        {"prompt": "1+1=", "completion": "2", "weight": 0.5},
    ),
    "token ids": ({"input_ids": [5, 6, 7]}, {"input_ids": [5, 6, 7], "supervised": [True, True, True]}),
    "token ids with labels": (
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "attention_mask": [1, 1, 1]},
        {"input_ids": [5, 6, 7], "supervised": [False, True, True]},
    ),
    "token ids with masks": (
        {"input_ids": [5, 6, 7], "completion_mask": [0, 1, 1], "assistant_masks": [True, True, False]},
        {"input_ids": [5, 6, 7], "supervised": [False, True, False]},
    ),
    "token ids of a pair": (
        {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3, 4]},
        {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3, 4]},
    ),
    # tables write None into the columns that a row lacks
    "None is absent": (
        {"prompt": "Sky?", "completion": "Blue", "chosen": None, "rejected": None, "tools": None},
        {"prompt": "Sky?", "completion": "Blue"},
    ),
    "None in a message": (
        {"messages": [SKY, {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]},
        {"messages": [SKY, {"role": "assistant", "tool_calls": [CALL]}]},
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
    "unknown columns": ({"question": "a", "answer": "b"}, "columns are question, answer.*columns="),
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
    "swift without an answer": ({"messages": [SKY], "rejected_response": "a"}, "no answer at its end"),
    "swift without a question": ({"messages": [BLUE], "rejected_response": "a"}, "no turn before the assistant's"),
    "swift, null": ({"messages": [SKY, BLUE], "rejected_response": None}, "`rejected_response` is null beside `mess"),
    "swift, empty": ({"messages": [SKY, BLUE], "rejected_response": ""}, "`rejected_response` is ''.*list of messages"),
    "three outputs": ({"instruction": "a", "output": ["a", "b", "c"]}, "`output` is a list of 3"),
    "OpenAI": (
        {"input": "Sky?", "preferred_output": [BLUE], "non_preferred_output": [GREEN]},
        "`input` is 'Sky\\?'.*an object with `messages`",
    ),
    "one rank": ({"context": [SKY], "completions": [{"rank": 0, "completion": [BLUE]}]}, "a list of two answers"),
    "equal ranks": (
        {"context": [SKY], "completions": [{"rank": 1, "completion": [BLUE]}, {"rank": 1, "completion": [GREEN]}]},
        "all `completions` have the rank 1",
    ),
    "no rank": (
        {"context": [SKY], "completions": [{"completion": [BLUE]}, {}]},
        "entry 1 of `completions` is .*`rank`",
    ),
    "verdict on a question": ({"messages": [SKY], "label": True}, "no answer at its end"),
    "weight": ({"prompt": "a", "completion": "b", "weight": "70 kg"}, "`weight` is '70 kg'.*columns: {weight: null}"),
    "weight below 0": ({"prompt": "a", "completion": "b", "weight": -1}, "`weight` is -1"),
    "weight nan": ({"prompt": "a", "completion": "b", "weight": float("nan")}, "a finite number from 0 on"),
    "weight inf": ({"prompt": "a", "completion": "b", "weight": "inf"}, "a finite number from 0 on"),
    "weight bool": ({"prompt": "a", "completion": "b", "weight": True}, "`weight` is True"),
    "no ids": ({"input_ids": []}, "`input_ids` is .*a list of token ids"),
    "ids of words": ({"input_ids": ["a"]}, "`input_ids` is .*whole numbers"),
    "ids below 0": ({"input_ids": [1, -1]}, "whole numbers from 0 on"),
    "short labels": ({"input_ids": [1, 2], "labels": [1]}, "`labels` has 1 entries, but `input_ids` has 2"),
    "shifted labels": (
        {"input_ids": [1, 2], "labels": [2, -100]},
        "`labels` has 2 at place 0, where `input_ids` has 1",
    ),
    "mask of weights": ({"input_ids": [1, 2], "completion_mask": [0, 2]}, "a list of 0 and 1"),
    "padding": ({"input_ids": [1, 0], "attention_mask": [1, 0]}, "the row is padded"),
    "empty answer ids": ({"prompt_ids": [], "chosen_ids": [], "rejected_ids": [1]}, "`chosen_ids` is .*token ids"),
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


LABELS = {True: [True, 1, 1.0, "true", "True", " TRUE ", "1"], False: [False, 0, 0.0, "false", "False", "0"]}


@pytest.mark.parametrize(("label", "value"), [(label, value) for label in LABELS for value in LABELS[label]])
def test_labels_are_read_whatever_their_type(label, value):
    row = {"prompt": "a", "completion": "b", "liked": value}
    assert to_example(row, {"label": "liked"})["label"] is label


@pytest.mark.parametrize("value", [3, -1, 0.5, "good", "", "yes", "None", [True], {"a": 1}])
def test_a_label_that_is_no_verdict_is_refused(value):
    row = {"prompt": "a", "completion": "b", "label": value}
    with pytest.raises(MixalignError, match=r"`label` is .*true or false, or 1 or 0.*columns: {label: null}"):
        to_example(row, {})
    assert to_example(row, {"label": None}) == {"prompt": "a", "completion": "b"}


def test_a_mapped_column_has_an_effect():
    with pytest.raises(MixalignError, match="maps `system` to `s`, but this row has no place for it"):
        to_example({"prompt": "a", "completion": "b", "s": "Be brief."}, {"system": "s"})


def test_prompt_key_is_the_prompt():
    pair = to_example({"prompt": "Sky?", "chosen": "a", "rejected": "b"}, {})
    assert prompt_key(pair) == "Sky?"
    assert prompt_key(to_example({"text": "body"}, {})) == "body"
    assert prompt_key(to_example({"input_ids": [1, 2], "labels": [-100, 2]}, {})) == "[1]"
    assert prompt_key(to_example({"input_ids": [1, 2]}, {})) == "[1, 2]"
    ids = to_example({"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}, {})
    assert (prompt_key(ids), example_kind(ids)) == ("[1]", "preference")
    # the same question with two answers has one key
    one, two = (to_example({"messages": [SKY, answer]}, {}) for answer in (BLUE, GREEN))
    assert prompt_key(one) == prompt_key(two) == json.dumps([SKY], sort_keys=True)


TEXT = st.text(max_size=8)
few = settings(max_examples=100, deadline=None, derandomize=True)


@pytest.mark.long
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
    keys = {*example} - {"tools", "chat_template_kwargs", "label"}
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

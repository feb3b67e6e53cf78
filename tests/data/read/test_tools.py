"""Tool calls in each form, and rows of them through each kind of file."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixalign.data.read.formats import to_example
from mixalign.data.read.sources import TaskSpec, load_rows
from mixalign.errors import MixalignError

ROME = {"name": "weather", "arguments": {"city": "Rome"}}
CALL = {"type": "function", "function": ROME}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}
    for name, properties in (
        ("weather", {"city": {"type": "string"}}),
        ("add", {"a": {"type": "number"}, "b": {"type": "number"}}),
    )
]
ASK = {"role": "user", "content": "Weather?"}


def calling(calls, **more) -> dict:
    return {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": calls, **more}]}


FORMS = {
    "as they should be": calling([CALL]),
    "arguments as text": calling(
        [{"type": "function", "function": {**ROME, "arguments": json.dumps({"city": "Rome"})}}]
    ),
    "arguments with a null": calling(
        [{"type": "function", "function": {**ROME, "arguments": {"city": "Rome", "x": None}}}]
    ),
    "text with a null": calling([{**ROME, "arguments": '{"city": "Rome", "x": null}'}]),
    "bare": calling([ROME]),
    "bare, alone": calling(ROME),
    "all as text": calling(json.dumps([CALL])),
    "one call of old": {
        "messages": [
            ASK,
            {"role": "assistant", "content": "", "function_call": {**ROME, "arguments": '{"city": "Rome"}'}},
        ]
    },
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "Weather?"}, {"from": "function_call", "value": json.dumps(ROME)}]
    },
    "ShareGPT, a list": {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": json.dumps([ROME])},
        ]
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_a_call_has_one_form(form):
    assert to_example(FORMS[form], {}) == calling([CALL])


def test_a_call_keeps_its_id_and_may_have_no_arguments():
    found = to_example(calling([{"id": "c1", "name": "now"}]), {})["messages"][1]["tool_calls"]
    assert found == [{"type": "function", "id": "c1", "function": {"name": "now", "arguments": {}}}]


def test_a_conversation_with_calls_of_sharegpt():
    """The call is the assistant's, its observation the tool's, and the system prompt comes first."""
    row = {
        "tools": json.dumps(TOOLS),
        "system": "Use tools.",
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": json.dumps(ROME)},
            {"from": "observation", "value": '{"sky": "blue"}'},
            {"from": "gpt", "value": "Blue."},
        ],
    }
    assert to_example(row, {}) == {
        "messages": [
            {"role": "system", "content": "Use tools."},
            ASK,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": '{"sky": "blue"}'},
            {"role": "assistant", "content": "Blue."},
        ],
        "tools": TOOLS,
    }


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (
            [{**ROME, "arguments": "city=Rome"}],
            "call 1 of `tool_calls` of turn 2 of `messages`, of `weather`, .*'city=Rome'",
        ),
        ([{**ROME, "arguments": ""}], "has `arguments` ''"),
        ([{**ROME, "arguments": "[1]"}], "has `arguments` '.1.'"),
        ([{**ROME, "arguments": 3}], r"has `arguments` 3 \(int\)"),
        ([CALL, {"arguments": {}}], "call 2 of .* has no name of a function"),
        ([{"function": "weather"}], "has no name of a function"),
        (["weather"], "call 1 of .* is 'weather'"),
        ("weather", "`tool_calls` of turn 2 of `messages` is 'weather'.*a list of calls"),
        (3, r"is 3 \(int\)"),
    ],
)
def test_other_calls_are_refused(calls, message):
    with pytest.raises(MixalignError, match=message):
        to_example(calling(calls), {})


def test_a_function_call_that_is_no_json_is_refused():
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "weather(Rome)"}]}
    with pytest.raises(MixalignError, match=r"the text of turn 2 of `conversations` is 'weather\(Rome\)'"):
        to_example(row, {})


def test_tools_may_each_be_text():
    assert to_example({**calling([CALL]), "tools": [json.dumps(tool) for tool in TOOLS]}, {})["tools"] == TOOLS


def through(kind: str, rows: list[dict], folder) -> list:
    """What is read of rows that were written to a file of some kind."""
    import datasets

    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE, before = folder / "cache", datasets.config.HF_DATASETS_CACHE
    try:
        path, more = folder / f"rows.{kind}", {}
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif kind == "parquet":
            datasets.Dataset.from_list(rows).to_parquet(str(path))
        else:
            datasets.Dataset.from_list(rows).save_to_disk(str(path))
        if kind == "arrow":  # the file inside, read as such
            more, path = {"data_files": str(next(path.glob("*.arrow")))}, "arrow"
        return load_rows("t", TaskSpec(path=str(path), **more))
    finally:
        datasets.config.HF_DATASETS_CACHE = before


ROWS = [
    {**calling([{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}]), "tools": TOOLS},
    {**calling([CALL], weight=0), "tools": TOOLS[:1]},
    {
        "messages": [ASK, {"role": "assistant", "content": "Blue."}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    },
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho."}], "tools": None},
]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "saved"])
def test_rows_of_tools_are_the_same_in_every_file(kind, tmp_path):
    lines = through("jsonl", ROWS, tmp_path)
    assert lines[0]["tools"] == TOOLS
    assert lines[1]["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [CALL], "weight": 0}
    assert through(kind, ROWS, tmp_path) == lines


WORD = st.text("abc", min_size=1, max_size=3)
ARGUMENTS = st.dictionaries(st.sampled_from("xyz"), WORD, min_size=1)
CALLS = st.builds(
    lambda name, arguments, how: [
        {"name": name, "arguments": arguments},
        {"type": "function", "function": {"name": name, "arguments": arguments}},
        {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}},
    ][how],
    WORD,
    ARGUMENTS,
    st.integers(0, 2),
)
SAYS = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": WORD},
    optional={"tool_calls": st.lists(CALLS, min_size=1, max_size=2), "train": st.booleans(), "thinking": WORD},
)
ASKS = st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool"]), "content": WORD})
TALK = st.lists(ASKS | SAYS, min_size=1, max_size=4)
ANY = st.fixed_dictionaries(
    {"messages": TALK},
    optional={
        "system": WORD,
        "weight": st.sampled_from([0.5, 2.0]),
        "history": st.lists(st.lists(WORD, min_size=2, max_size=2)),
    },
)


@given(st.lists(ANY, min_size=1, max_size=4))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_a_table_of_any_conversations_gives_the_rows_of_the_json_lines(rows):
    import datasets

    rows = [row for row in rows if not ("system" in row and row["messages"][0]["role"] == "system")]
    rows.append({"messages": [ASK]})
    names = dict.fromkeys(name for row in rows for name in row)  # the first row says which columns a table has
    table = datasets.Dataset.from_list([{name: row.get(name) for name in names} for row in rows])
    assert [to_example(row, {}) for row in table] == [to_example(row, {}) for row in rows]

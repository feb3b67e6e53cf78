"""Rows of an instruction, with and without a chat template."""

import pytest

from mixalign.data.read.formats import to_example
from mixalign.data.read.sources import TaskSpec, load_rows, load_task
from mixalign.errors import MixalignError


def turns(*texts: str) -> list[dict]:
    """Turns of the user and the assistant, one after the other."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


SYSTEM = {"role": "system", "content": "Be brief."}
ROW = {"instruction": "Add.", "input": "1, 2", "output": "3"}
EXTRAS = {"system": "Be brief.", "history": [["Hi", "Hello"], ["So?", "So."]]}
PAIR = {"instruction": "Add.", "input": "1, 2", "chosen": "3", "rejected": "4"}


def test_an_instruction_becomes_a_conversation_where_there_is_a_template():
    assert to_example(ROW, {}, chat=True) == {
        "prompt": turns("Add.\n1, 2"), "completion": [{"role": "assistant", "content": "3"}],
    }  # fmt: skip
    for row in ({**ROW, "input": ""}, {**ROW, "input": None}, {"instruction": "Add.", "output": "3"}):
        assert to_example(row, {}, chat=True)["prompt"] == turns("Add.")


@pytest.mark.parametrize("row", [PAIR, {**ROW, "output": ["3", "4"]}])
def test_a_pair_becomes_a_conversation_where_there_is_a_template(row):
    answers = {name: [{"role": "assistant", "content": text}] for name, text in (("chosen", "3"), ("rejected", "4"))}
    assert to_example(row, {}, chat=True) == {"prompt": turns("Add.\n1, 2"), **answers}
    assert to_example({**row, **EXTRAS}, {}, chat=True)["prompt"] == [
        SYSTEM, *turns("Hi", "Hello", "So?", "So.", "Add.\n1, 2"),
    ]  # fmt: skip


def test_system_and_history_are_read():
    assert to_example({**ROW, **EXTRAS}, {}, chat=True)["prompt"] == [
        SYSTEM, *turns("Hi", "Hello", "So?", "So.", "Add.\n1, 2"),
    ]  # fmt: skip


@pytest.mark.parametrize("row", [ROW, PAIR, {**ROW, "output": ["3", "4"]}])
@pytest.mark.parametrize("name", EXTRAS)
def test_system_and_history_have_no_place_in_the_text(row, name):
    with pytest.raises(MixalignError, match=f"`{name}` is .*no chat template.*columns: {{{name}: null}}"):
        to_example({**row, name: EXTRAS[name]}, {})
    assert to_example({**row, "system": "", "history": []}, {}) == to_example(row, {})
    assert to_example({**row, name: EXTRAS[name]}, {name: None}) == to_example(row, {})


def test_a_verdict_on_an_instruction():
    assert to_example({**ROW, "label": "0"}, {}, chat=True)["label"] is False
    with pytest.raises(MixalignError, match="two answers and a `label`"):
        to_example({**ROW, "output": ["3", "4"], "label": True}, {})


def test_tasks_are_read_with_the_template_in_mind(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("instruction,output\n" + "".join(f"say {n},{n}\n" for n in range(4)))
    spec = TaskSpec(path=str(path))
    for chat, kind in ((True, list), (False, str)):
        assert isinstance(load_task("t", spec, chat=chat)["train"][0]["prompt"], kind)
        assert isinstance(load_rows("t", spec, chat=chat)[0]["prompt"], kind)

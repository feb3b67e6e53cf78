"""Further rows are read as the run read those of a task: by its name, by --task, of a run and of what it exported."""

import json
import shutil

import pytest

from mixalign.errors import MixalignError
from mixalign.further.model import open_model
from mixalign.further.rows import read_tables
from mixalign.runs.rendering import FILE
from mixalign.sharing.export import How
from mixalign.sharing.find import find_model
from mixalign.sharing.voices import renderer_of
from mixalign.verbs import export
from tests.tiny_runs import MODEL, QUIET, SHORT, train_from_overrides

TURN = "<|assistant|>"


@pytest.fixture(scope="module")
def folder(cache, tmp_path_factory):
    """A run of conversations, of texts that the template wrote, and of texts as they stand; what it exported."""
    folder = tmp_path_factory.mktemp("form")
    talk = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "!"}]} for n in range(20)
    ]
    texts = [{"prompt": f"{n} + 1 = ", "completion": str(n + 1)} for n in range(20)]
    for name, rows in {
        "talk": talk,
        "units": texts,
        "sums": [dict(row, prompt=f"s{row['prompt']}") for row in texts],
    }.items():
        (folder / "tasks" / name).mkdir(parents=True)
        for split, part in (("train", rows[:14]), ("test", rows[14:])):
            (folder / "tasks" / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    own = ["data=local", f"data.root={folder / 'tasks'}", "++data.tasks.units.apply_chat_template=true"]
    own += ["objective=sft", "mixer=uniform", "specialists.train=never", f"cache_dir={cache}"]
    train_from_overrides([*MODEL, *SHORT, *QUIET, *own], str(folder / "run"))
    export.run(folder / "run", folder / "full", How())
    export.run(folder / "full", folder / "again", How())
    return folder


def texts(opened, place, **options):
    """Task -> the text of its first row."""
    tables = read_tables(place, opened, **options)
    return {table.task: opened.tokenizer.decode(table.rows.ids_T[: int(table.rows.start_N[1])]) for table in tables}


@pytest.mark.parametrize("name", ["run", "full", "again"])
def test_a_task_by_its_name_is_read_as_the_run_read_it(folder, name, caplog):
    opened = open_model(str(folder / name))
    found = texts(opened, folder / "tasks")
    assert {task: TURN in text for task, text in found.items()} == {"talk": True, "units": True, "sums": False}
    one = texts(opened, folder / "tasks" / "units" / "test.jsonl")
    assert one == {"units": found["units"]}, "a file of a split is of the task whose folder it lies in"
    assert not caplog.text


@pytest.mark.parametrize("name", ["run", "full"])
def test_another_file_is_read_as_the_task_that_is_named_and_else_it_is_told(folder, name, tmp_path, caplog):
    opened = open_model(str(folder / name))
    path = shutil.copy(folder / "tasks" / "units" / "test.jsonl", tmp_path / "exam.jsonl")
    assert TURN not in texts(opened, tmp_path / "exam.jsonl")["exam"]
    assert "The rows of `exam` are read as plain text, without the chat template" in caplog.text
    assert "it has no task `exam`. Read them as a task of the run, --task sums or --task units, or give" in caplog.text
    caplog.clear()
    assert TURN in texts(opened, tmp_path / "exam.jsonl", task="units")["exam"]
    assert TURN not in texts(opened, tmp_path / "exam.jsonl", task="sums")["exam"]
    assert not caplog.text, "what was asked for"
    with pytest.raises(MixalignError, match=r"--task unit: .* has no such task\. .* Did you mean `units`\?"):
        read_tables(path, opened, task="unit")


def test_the_other_way_round_is_told_as_well(folder, caplog, tmp_path):
    opened = open_model(str(folder / "run"))
    shutil.copy(folder / "tasks" / "talk" / "test.jsonl", tmp_path / "sums.jsonl")
    texts(opened, tmp_path / "sums.jsonl")
    assert "`sums` are written by the chat template, by which the run wrote no row of `sums`" in caplog.text
    shutil.copy(folder / "tasks" / "sums" / "test.jsonl", tmp_path / "talk.jsonl")
    texts(opened, tmp_path / "talk.jsonl")
    assert "by which the run wrote those of `talk`. Give conversations (`messages`)." in caplog.text


def test_a_folder_of_which_nothing_is_known_says_so(folder, tmp_path, caplog):
    shutil.copytree(folder / "full", tmp_path / "old")
    (tmp_path / "old" / FILE).unlink()
    opened = open_model(str(tmp_path / "old"))
    assert TURN not in texts(opened, folder / "tasks" / "units")["units"]
    assert "as nothing here says how the model was trained" in caplog.text
    with pytest.raises(MixalignError, match="--task units: nothing is known of the tasks"):
        read_tables(folder / "tasks" / "units", opened, task="units")
    (tmp_path / "old" / FILE).write_text('{"tasks": []}')
    with pytest.raises(MixalignError, match=r"mixalign\.json is damaged"):
        open_model(str(tmp_path / "old"))


def test_an_exported_folder_answers_as_its_run_does(folder):
    for task, is_chat in ((None, True), ("units", True), ("sums", False)):
        run, full = (renderer_of(find_model(folder / name), task) for name in ("run", "full"))
        assert run.ids("abc").tolist() == full.ids("abc").tolist()
        assert (run.is_chat, run.note()) == (full.is_chat, full.note()) == (is_chat, run.note())


def test_task_belongs_to_data(folder, in_process):
    code, _, said = in_process("evaluate", folder / "run", "--task", "units")
    assert (code, "--task belongs to --data" in said) == (1, True)

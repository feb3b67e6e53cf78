"""A folder of tasks: everything in it that has rows is a task, or is named."""

import json
from pathlib import Path

import pytest

from mixalign.data.read.discover import discover_tasks
from mixalign.data.read.files import SUFFIXES
from mixalign.data.read.sources import TaskSpec, load_task
from mixalign.data.read.table import SPLITS
from mixalign.errors import MixalignError


def rows(count: int, start: int = 0) -> list[dict]:
    return [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(start, start + count)]


def write(path: Path, entries: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def sizes(root: Path) -> dict[str, dict[str, int]]:
    return {
        name: {split: len(part) for split, part in load_task(name, spec).items()}
        for name, spec in discover_tasks(root).items()
    }


@pytest.fixture
def many(tmp_path) -> Path:
    """Five tasks, each in another form."""
    write(tmp_path / "math" / "train.jsonl", rows(12))
    write(tmp_path / "math" / "val.jsonl", rows(4, 100))
    write(tmp_path / "qa" / "training.jsonl", rows(10))
    write(tmp_path / "safe.jsonl", rows(10))
    (tmp_path / "code.json").write_text(json.dumps(rows(10)))
    (tmp_path / "chat.csv").write_text("prompt,completion\n" + "".join(f"p{n},c{n}\n" for n in range(10)))
    return tmp_path


def test_every_form_is_a_task_and_val_validates(many, caplog):
    cut = {"train": 9, "validation": 1}
    assert sizes(many) == {
        "chat": cut,
        "code": cut,
        "math": {"train": 12, "validation": 4},
        "qa": cut,
        "safe": cut,
    }
    assert not caplog.text


def test_what_is_no_task_is_named_once(many, caplog):
    (many / "README.md").write_text("x")
    (many / "notes.txt").write_text("x")
    (many / ".gitattributes").write_text("x")
    (many / "dataset_infos.json").write_text("{}")
    write(many / "parts" / "part-0.jsonl", rows(2))
    write(many / "exam" / "test.jsonl", rows(2))
    assert len(discover_tasks(many)) == 5
    assert len(caplog.records) == 1
    skipped = "README.md; exam/ (only test rows); notes.txt; parts/ (no train file)."
    assert caplog.text.strip().endswith(f"these are no tasks, and not read: {skipped}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_any_suffix_is_a_task(tmp_path, suffix):
    (tmp_path / f"a.b{suffix}").write_text("")
    assert discover_tasks(tmp_path) == {"a.b": TaskSpec(path=str(tmp_path / f"a.b{suffix}"))}


@pytest.mark.parametrize("name", SPLITS["train"])
def test_a_folder_with_a_train_file_of_any_name_is_a_task(tmp_path, name):
    write(tmp_path / "a" / f"{name}.ndjson", rows(10))
    assert sizes(tmp_path) == {"a": {"train": 9, "validation": 1}}


@pytest.mark.parametrize("inner", ["", "data/"])
def test_a_copy_of_a_hub_repository_is_a_task(tmp_path, inner):
    write(tmp_path / "a" / f"{inner}train-00001-of-00002.jsonl", rows(3, 10))
    write(tmp_path / "a" / f"{inner}train-00000-of-00002.jsonl", rows(3))
    write(tmp_path / "a" / f"{inner}test-00000-of-00001.jsonl", rows(2, 20))
    (tmp_path / "a" / "README.md").write_text("---\nlicense: mit\n---")
    write(tmp_path / "b.jsonl", rows(10))
    (spec,) = (spec for name, spec in discover_tasks(tmp_path).items() if name == "a")
    splits = load_task("a", TaskSpec(path=spec.path, validation="test"))
    assert splits["train"] == [{**row} for row in rows(3) + rows(3, 10)]
    assert splits["validation"] == rows(2, 20)


def test_shards_in_the_root_are_one_task(tmp_path):
    root = tmp_path / "a[1]"
    for n in range(3):
        write(root / f"math-0000{n}-of-00003.jsonl", rows(4, 4 * n))
    assert sizes(root) == {"math": {"train": 11, "validation": 1}}
    (root / "math-00001-of-00003.jsonl").unlink()
    with pytest.raises(MixalignError, match=r"2 of the 3 shards of `math`; number 00001 is missing"):
        discover_tasks(root)


@pytest.mark.parametrize("name", ["val.jsonl", "test.csv", "dev.parquet", "eval.json", "testing-00000-of-00001.arrow"])
def test_a_split_of_no_task_is_refused(many, name):
    (many / name).write_text("")
    with pytest.raises(MixalignError, match=rf"holds {name}, which is called like .* rows, and nothing says of which"):
        discover_tasks(many)


@pytest.mark.parametrize(
    "names",
    [["train.jsonl"], ["training.csv"], ["train-00000-of-00001.parquet"], ["data/train-00000-of-00001.parquet"]],
)
def test_a_root_with_train_rows_is_one_task(tmp_path, names):
    for name in names:
        write(tmp_path / name, rows(1))
    with pytest.raises(MixalignError, match=r"it is one task\. Point to the folder above it"):
        discover_tasks(tmp_path)


def test_a_task_may_be_called_data(tmp_path):
    write(tmp_path / "data" / "train-00000-of-00001.jsonl", rows(10))
    write(tmp_path / "other.jsonl", rows(10))
    assert [*sizes(tmp_path)] == ["data", "other"]


def test_a_root_without_tasks_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    write(tmp_path / "exam" / "test.jsonl", rows(2))
    with pytest.raises(MixalignError, match=r"holds no task.*It holds exam/ \(only test rows\); notes\.txt\."):
        discover_tasks(tmp_path)

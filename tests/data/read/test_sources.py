"""Where rows come from, how they are split, and what is said when they cannot be read."""

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mixalign.data.read.sources import TaskSpec, discover_tasks, load_task
from mixalign.errors import MixalignError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def rows(count: int, start: int = 0) -> list[dict]:
    return [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(start, start + count)]


def write(path: Path, entries: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def load(path: Path | str, validation_fraction: float = 0.1, seed: int = 0, **spec):
    mapping = {"path": str(path), **spec}
    spec = TaskSpec.from_mapping("maths", mapping)
    return load_task("maths", spec, validation_fraction=validation_fraction, seed=seed)


@pytest.fixture(autouse=True)
def _cache_in_the_temporary_folder(request, monkeypatch):
    """Only for tests that read through `datasets`, which writes its own copy of what it reads."""
    if "datasets_cache" in request.fixturenames:
        return
    monkeypatch.setitem(sys.modules, "datasets", None)  # the others must do without it


@pytest.fixture
def datasets_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


def test_a_parquet_file_of_the_same_place_size_and_time_is_read_again(tmp_path, datasets_cache):
    """As `rsync` or `cp -p` leave it: `datasets` alone would give the rows that it read there before."""
    path, times = tmp_path / "a.parquet", []
    for start in (10, 30):
        datasets_cache.Dataset.from_list(rows(10, start=start)).to_parquet(path)
        times.append(path.stat())
        os.utime(path, ns=(times[0].st_atime_ns, times[0].st_mtime_ns))
        found = load(path)
        numbers = sorted(int(row["completion"].split()[1]) for part in found.values() for row in part)
        assert numbers == [*range(start, start + 10)]
    assert times[0].st_size == times[1].st_size


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_a_file_of_json_lines_is_read_and_cut(tmp_path, name):
    splits = load(write(tmp_path / name, rows(50)))
    # a tenth of 50 prompts
    assert {split: len(part) for split, part in splits.items()} == {"train": 45, "validation": 5}
    both = splits["train"] + splits["validation"]
    assert sorted(row["prompt"] for row in both) == sorted(row["prompt"] for row in rows(50))


def test_a_json_array_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(rows(10), indent=1))
    assert len(load(tmp_path / "a.json")["train"]) == 9


@pytest.mark.parametrize("validation", ["validation", "valid", "dev"])
def test_a_folder_of_split_files(tmp_path, validation):
    write(tmp_path / "train.jsonl", rows(4))
    write(tmp_path / f"{validation}.jsonl.gz", rows(3, 10))
    write(tmp_path / "test.jsonl", rows(2, 20))
    splits = load(tmp_path)
    assert {split: part[0]["prompt"] for split, part in splits.items()} == {
        "train": "question 0",
        "validation": "question 10",
        "test": "question 20",
    }


def test_validation_and_test_may_be_other_files(tmp_path):
    train, other = write(tmp_path / "a.jsonl", rows(4)), write(tmp_path / "b.jsonl", rows(3, 10))
    splits = load(train, validation=str(other), test=str(other))
    assert [len(part) for part in splits.values()] == [4, 3, 3]


def test_split_expressions(tmp_path, datasets_cache):
    path = write(tmp_path / "a.jsonl", rows(20))
    splits = load(path, split="train[:50%]", validation="train[15:]")
    assert [row["prompt"] for row in splits["train"]] == [f"question {n}" for n in range(10)]
    assert [row["prompt"] for row in splits["validation"]] == [f"question {n}" for n in range(15, 20)]


def test_a_split_that_is_trained_on_does_not_validate(tmp_path):
    write(tmp_path / "train.jsonl", rows(10))
    write(tmp_path / "validation.jsonl", rows(10, 100))
    splits = load(tmp_path, split="validation")
    prompts = {row["prompt"] for row in splits["train"] + splits["validation"]}
    assert (len(splits["train"]), len(splits["validation"])) == (9, 1)
    assert prompts == {f"question {n}" for n in range(100, 110)}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_are_read_through_datasets(tmp_path, datasets_cache, suffix):
    table = datasets_cache.Dataset.from_list([{"prompt": f"1+{n}=", "completion": str(1 + n)} for n in range(10)])
    getattr(table, f"to_{suffix}")(str(tmp_path / f"a.{suffix}"))
    splits = load(tmp_path / f"a.{suffix}")
    # numbers in a csv file stay the text that they are
    assert {"prompt": "1+4=", "completion": "5"} in splits["train"] + splits["validation"]
    assert len(splits["train"]) == 9


def test_builder_with_data_files(tmp_path, datasets_cache):
    files = {
        "train": str(write(tmp_path / "x.jsonl", rows(8))),
        "test": str(write(tmp_path / "y.jsonl", rows(2, 10))),
    }
    splits = load("json", data_files=files, validation="test", split="train[:5]")
    assert {split: len(part) for split, part in splits.items()} == {"train": 5, "validation": 2, "test": 2}


def test_save_to_disk(tmp_path, datasets_cache):
    make = datasets_cache.Dataset.from_list
    make(rows(10)).save_to_disk(str(tmp_path / "one"))
    datasets_cache.DatasetDict(train=make(rows(4)), dev=make(rows(3, 10))).save_to_disk(str(tmp_path / "two"))
    assert [len(part) for part in load(tmp_path / "one").values()] == [9, 1]
    assert [len(part) for part in load(tmp_path / "two").values()] == [4, 3]
    assert list(discover_tasks(tmp_path)) == ["one", "two"]


def test_hub_arguments_are_passed_on(monkeypatch, datasets_cache, hub):
    hub.answers["datasets/owner/set"] = (404, "EntryNotFound")  # it is there, without a README.md
    seen = {}

    def load_dataset(path, **arguments):
        seen.update(arguments, path=path)
        return {"train": datasets_cache.Dataset.from_list([{"q": f"p{n}", "completion": "c"} for n in range(20)])}

    monkeypatch.setattr(datasets_cache, "load_dataset", load_dataset)
    splits = load("owner/set", name="main", revision="abc", columns={"prompt": "q"})
    assert seen == {"path": "owner/set", "name": "main", "revision": "abc"}
    assert [len(part) for part in splits.values()] == [18, 2]


def several_answers(count: int) -> list[dict]:
    return [{"prompt": f"question {n % 40}", "chosen": f"good {n}", "rejected": "bad"} for n in range(count)]


def test_the_cut_keeps_the_rows_of_a_prompt_together(tmp_path):
    splits = load(write(tmp_path / "a.jsonl", several_answers(200)), validation_fraction=0.25)
    train, validation = ({row["prompt"] for row in splits[split]} for split in ("train", "validation"))
    assert not train & validation
    # 10 of 40 prompts, each with five answers
    assert (len(train), len(validation), len(splits["validation"])) == (30, 10, 50)


def test_the_cut_depends_on_the_seed_and_not_on_the_order(tmp_path):
    shuffled = several_answers(200)
    random.Random(1).shuffle(shuffled)
    one = load(write(tmp_path / "a.jsonl", several_answers(200)))
    two = load(write(tmp_path / "b.jsonl", shuffled))
    other = load(tmp_path / "a.jsonl", seed=1)
    prompts = [{row["prompt"] for row in splits["validation"]} for splits in (one, two, other)]
    assert prompts[0] == prompts[1] != prompts[2]


def test_max_rows_takes_a_uniform_subset_whatever_the_order(tmp_path):
    write(tmp_path / "validation.jsonl", rows(2, 1000))
    write(tmp_path / "train.jsonl", rows(400))
    first = load(tmp_path, max_rows=100)["train"]
    numbers = [int(row["prompt"].split()[1]) for row in first]
    assert len(numbers) == 100
    assert numbers == sorted(numbers)
    # 50 +- 4.3 of a uniform draw lie in the first half
    assert 35 < sum(number < 200 for number in numbers) < 65
    write(tmp_path / "train.jsonl", rows(400)[::-1])
    again = load(tmp_path, max_rows=100)["train"]
    assert sorted(map(str, again)) == sorted(map(str, first))
    assert load(tmp_path, max_rows=100, seed=1)["train"] != again
    # a smaller subset is part of a larger one
    assert all(row in again for row in load(tmp_path, max_rows=10)["train"])


def test_max_rows_leaves_validation_alone(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(100))
    assert load(path, max_rows=5)["validation"] == load(path)["validation"]
    assert len(load(path, max_rows=5)["train"]) == 5


LINES = {
    "not JSON": ('{"prompt": "a", "completion": b}', r"a\.jsonl, line 3 is not valid JSON .*b}`"),
    "not an object": ('["a", "b"]', r"a\.jsonl, line 3 is a JSON list, not an object: `\[\"a\", \"b\"\]`"),
    "wrong columns": ('{"q": "a"}', r"a\.jsonl, line 3: the columns are q\. The nearest of 18.*columns="),
    "wrong value": ('{"prompt": "a", "completion": 1}', r"a\.jsonl, line 3: `completion` is 1 \(int\)"),
    "another kind": (
        '{"prompt": "a", "chosen": "b", "rejected": "c"}',
        r"mixes preference rows.*row 2 of train",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line_is_named(tmp_path, name):
    line, message = LINES[name]
    # an empty line is no row, and it counts
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(rows(1)[0])}\n\n{line}\n")
    with pytest.raises(MixalignError, match=f"Task `maths`.*{message}"):
        load(tmp_path / "a.jsonl")


def test_files_that_are_not_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.jsonl.gz").write_bytes(b"not gzip")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.gz"):
        with pytest.raises(MixalignError, match=f"{name} cannot be read"):
            load(tmp_path / name)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(MixalignError, match=r"Task `maths` is empty: .*a\.jsonl has no rows"):
        load(tmp_path / "a.jsonl")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_without_rows(tmp_path, datasets_cache, suffix):
    table = datasets_cache.Dataset.from_dict({"prompt": [], "completion": []})
    getattr(table, f"to_{suffix}")(str(tmp_path / f"a.{suffix}"))
    (tmp_path / f"b.{suffix}").write_text("")
    for name in "ab":
        with pytest.raises(MixalignError, match=r"Task `maths`.* is empty") as caught:
            load(tmp_path / f"{name}.{suffix}")
        assert f"{name}.{suffix}" in str(caught.value)


def test_a_dev_split_that_is_trained_on_does_not_validate(tmp_path, datasets_cache):
    make = datasets_cache.Dataset.from_list
    datasets_cache.DatasetDict(train=make(rows(5)), dev=make(rows(10, 10))).save_to_disk(str(tmp_path))
    assert [len(part) for part in load(tmp_path, split="dev").values()] == [9, 1]


def test_missing_paths_name_the_closest_sibling(tmp_path):
    write(tmp_path / "math.jsonl", rows(1))
    with pytest.raises(MixalignError, match=r"maths\.jsonl does not exist\. Did you mean .*/math\.jsonl"):
        load(tmp_path / "maths.jsonl")
    with pytest.raises(MixalignError, match=r"dev\.jsonl does not exist"):
        load(tmp_path / "math.jsonl", validation=str(tmp_path / "dev.jsonl"))


def test_unknown_split(tmp_path):
    write(tmp_path / "train.jsonl", rows(4))
    with pytest.raises(MixalignError, match=r"no split `trian`. Did you mean `train`"):
        load(tmp_path, split="trian")


def test_folders_that_are_no_task(tmp_path):
    write(tmp_path / "part-0.jsonl", rows(1))
    with pytest.raises(MixalignError, match=r"has no train file.*part-0\.jsonl"):
        load(tmp_path)
    write(tmp_path / "train.jsonl", rows(1))
    write(tmp_path / "train.json", rows(1))
    with pytest.raises(MixalignError, match=r"two files of one split: train\.jsonl, train\.json"):
        load(tmp_path)


def test_one_prompt_cannot_be_cut(tmp_path):
    path = write(tmp_path / "a.jsonl", rows(1) * 5)
    with pytest.raises(MixalignError, match=r"`maths` has 5 rows of one prompt: train or validation would be empty"):
        load(path)
    with pytest.raises(MixalignError, match=r"validation fraction is 0\.0"):
        load(path, validation_fraction=0.0)


SPECS = {
    "unknown key": ({"pth": "a"}, r"`data\.tasks\.maths\.pth` is not a setting.*Did you mean `path`"),
    "no rows": ({"max_rows": 0}, r"`data\.tasks\.maths\.max_rows` is 0, but must be a whole number from 1 on"),
    "bool": ({"max_length": True}, r"`data\.tasks\.maths\.max_length` is True"),
    "text": ({"max_rows": "5"}, r"max_rows` is '5', but must be a whole number"),
    "path": ({"path": 3}, r"`data\.tasks\.maths\.path` is 3, but must be a text that is not empty"),
    "columns": ({"columns": ["a"]}, r"columns` is \['a'\].*mapping"),
    "column name": (
        {"columns": {"promt": "q"}},
        r"`data\.tasks\.maths\.columns\.promt`.*Did you mean `prompt`",
    ),
    "column value": ({"columns": {"prompt": 1}}, "must be the name of a column"),
    "objective": ({"objective": {"beta": "x"}}, r"`data\.tasks\.maths\.objective\.beta` is 'x'"),
    "objective's loss": ({"objective": {"loss": 2}}, r"`data\.tasks\.maths\.objective\.loss` is 2, but must be a word"),
    "both": ({"path": "a", "generator": "b"}, "both a path and a generator"),
    "no effect": ({"path": "a", "rows": 5}, r"`data\.tasks\.maths\.rows` is for generated tasks"),
    "not a mapping": ("a.jsonl", r"`data\.tasks\.maths` is 'a\.jsonl', but must be a mapping"),
}


@pytest.mark.parametrize("name", SPECS)
def test_bad_specs_name_the_key(name):
    mapping, message = SPECS[name]
    with pytest.raises(MixalignError, match=message):
        TaskSpec.from_mapping("maths", mapping)


def test_null_means_default():
    assert TaskSpec.from_mapping("maths", {"path": "a", "split": None, "columns": None}) == TaskSpec(path="a")


def test_a_task_without_rows_is_refused():
    with pytest.raises(MixalignError, match=r"`maths` has neither a path nor a generator"):
        load_task("maths", TaskSpec())
    with pytest.raises(MixalignError, match=r"`maths` is generated by `sums`"):
        load_task("maths", TaskSpec(generator="sums"))
    with pytest.raises(MixalignError, match=r"data_files.*not set"):
        load("json")
    with pytest.raises(MixalignError, match="name has no effect"):
        load(__file__, name="main")


def test_tasks_are_discovered_by_name(tmp_path):
    write(tmp_path / "maths" / "train.jsonl", rows(1))
    write(tmp_path / "code.jsonl.gz", rows(1))
    write(tmp_path / "notes" / "readme.jsonl", rows(1))
    write(tmp_path / ".hidden.jsonl", rows(1))
    (tmp_path / "README.md").write_text("x")
    tasks = discover_tasks(tmp_path)
    assert list(tasks) == ["code", "maths"]
    assert tasks["code"] == TaskSpec(path=str(tmp_path / "code.jsonl.gz"))


def test_discovery_errors(tmp_path):
    with pytest.raises(MixalignError, match="none does not exist"):
        discover_tasks(tmp_path / "none")
    with pytest.raises(MixalignError, match="holds no task"):
        discover_tasks(tmp_path)
    write(tmp_path / "maths" / "train.jsonl", rows(1))
    write(tmp_path / "maths.jsonl", rows(1))
    with pytest.raises(MixalignError, match=r"task `maths` is there twice: .*maths and .*maths\.jsonl"):
        discover_tasks(tmp_path)
    with pytest.raises(MixalignError, match="it is one task"):
        discover_tasks(tmp_path / "maths")


def test_json_lines_do_not_import_datasets():
    code = (
        "import sys, mixalign.data.read.sources, mixalign.data.tokens.tokenise as t; print('datasets' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert result.stdout.strip() == "False"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the data folder beside the repository")
def test_real_tasks_load():
    tasks = discover_tasks(SHARED / "mini" / "preference")
    assert list(tasks) == ["code", "harmless", "helpful", "honest", "math"]
    for name, spec in tasks.items():
        assert {split: len(part) for split, part in load_task(name, spec).items()} == {
            "train": 64,
            "validation": 32,
            "test": 32,
        }

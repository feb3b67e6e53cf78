"""Files of a folder that are splits: their names, their shards, and what belongs to none."""

import pytest

from mixalign.data.read.folders import split_files
from mixalign.data.read.sources import TaskSpec, load_task
from mixalign.data.read.table import SPLITS
from mixalign.errors import MixalignError
from tests.data.read.test_discover import rows, write


def load(path, **spec):
    return load_task("maths", TaskSpec(path=str(path), **spec))


@pytest.mark.parametrize(("split", "name"), [(split, name) for split, names in SPLITS.items() for name in names])
def test_names_of_splits(tmp_path, split, name):
    write(tmp_path / "train.jsonl", rows(10))
    if split == "train":
        (tmp_path / "train.jsonl").unlink()
    write(tmp_path / f"{name}.jsonl", rows(9, 100))
    assert load(tmp_path)[split][0]["prompt"] == "question 100" or split == "train"
    # each name of a split finds it
    assert len(load(tmp_path, split=name)["train"]) == 8
    assert len(load(tmp_path, split=SPLITS[split][-1])["train"]) == 8


@pytest.mark.parametrize(("split", "name"), [(split, name) for split, names in SPLITS.items() for name in names])
def test_names_of_splits_in_data_sets(tmp_path, split, name):
    import datasets

    parts = {"train": rows(10), name: rows(9, 100)} if split != "train" else {name: rows(9, 100)}
    made = {part: datasets.Dataset.from_list(entries) for part, entries in parts.items()}
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "a"))
    assert load(tmp_path / "a")[split][0]["prompt"].startswith("question 10")


def test_two_splits_that_could_validate(tmp_path):
    import datasets

    made = {name: datasets.Dataset.from_list(rows(3, n)) for n, name in ((0, "train"), (10, "dev"), (20, "eval"))}
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "a"))
    with pytest.raises(MixalignError, match=r"2 splits that could be its validation rows: dev, eval. Name the one"):
        load(tmp_path / "a")
    assert load(tmp_path / "a", validation="eval")["validation"] == rows(3, 20)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("train.jsonl", "training.jsonl"),
        ("train.jsonl", "train.csv"),
        ("train.jsonl", "data/train.jsonl"),
        ("train.jsonl", "train-00000-of-00001.jsonl"),
        ("train-00000-of-00001.jsonl", "train-00000-of-00001.parquet"),
        ("train-00000-of-00001.jsonl", "train-00000-of-00002.jsonl"),
        ("dev.jsonl", "eval.jsonl"),
    ],
)
def test_two_files_of_one_split(tmp_path, one, two):
    for name in {one, two, "train.jsonl" if one == "dev.jsonl" else one}:
        write(tmp_path / name, rows(3))
    with pytest.raises(MixalignError, match="has two files of one split: ") as caught:
        load(tmp_path)
    assert one in str(caught.value)
    assert two in str(caught.value)


def test_shards_are_read_in_order_and_none_may_be_missing(tmp_path):
    for n in (2, 0, 10, 1, *range(3, 10)):
        write(tmp_path / f"train-{n:05d}-of-00011-0123abcd{n}.jsonl", rows(2, 2 * n))
    write(tmp_path / "val.jsonl", rows(1, 100))
    assert load(tmp_path)["train"] == rows(22)
    assert load(tmp_path, split="train[3:7]")["train"] == rows(4, 3)
    assert load(tmp_path, split="train[:50%]", validation="train[50%:]")["validation"] == rows(11, 11)
    (tmp_path / "train-00010-of-00011-0123abcd10.jsonl").unlink()
    with pytest.raises(MixalignError, match=r"10 of the 11 shards of `train`; number 00010 is missing. Fetch"):
        load(tmp_path)


def test_shards_of_any_name_are_splits(tmp_path):
    write(tmp_path / "data" / "train_sft-00000-of-00001.jsonl", rows(10))
    write(tmp_path / "data" / "test_sft-00000-of-00001.jsonl", rows(3, 10))
    assert len(load(tmp_path, split="train_sft", validation="test_sft")["validation"]) == 3
    with pytest.raises(MixalignError, match=r"there is no split `train`. Did you mean `train_sft`"):
        load(tmp_path)


def test_files_that_are_no_split_are_named(tmp_path, caplog):
    write(tmp_path / "train.jsonl", rows(10))
    write(tmp_path / "heldout.jsonl", rows(10))
    (tmp_path / "README.md").write_text("x")
    load(tmp_path)
    assert f"{tmp_path}: not read, as these are names of no split: heldout.jsonl" in caplog.text
    assert "README" not in caplog.text


def test_a_folder_with_a_test_split_alone(tmp_path):
    write(tmp_path / "test.jsonl", rows(10))
    with pytest.raises(MixalignError, match=r"no split `train`, only test\. To train on it, say `split: test`"):
        load(tmp_path)
    assert len(load(tmp_path, split="test")["train"]) == 9
    write(tmp_path / "dev.jsonl", rows(10, 20))
    with pytest.raises(MixalignError, match=r"no split `train`, only (test, validation|validation, test)\."):
        load(tmp_path)


def test_hidden_files_and_cards_are_no_rows(tmp_path):
    for name in (".train.jsonl", "dataset_infos.json", "state.json"):
        (tmp_path / name).write_text("{}")
    found = split_files(tmp_path)
    assert (found.splits, found.unread) == ({}, [])


def test_a_file_whose_name_begins_like_a_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "~nobody.jsonl", rows(10))
    assert len(load("~nobody.jsonl")["train"]) == 9
    with pytest.raises(MixalignError, match=r"~other\.jsonl does not exist"):
        load("~other.jsonl")

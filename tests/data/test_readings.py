"""Files that were read before: the same rows and words without reading, and nothing of files that are others now."""

import json
import logging
import os
import subprocess
import sys
from datetime import date

import pytest

from mixalign.data import readings
from mixalign.data.read.sources import TaskSpec, load_task
from mixalign.data.readings import load_kept
from mixalign.data.tokens.cache import HashedRows, TokenCache, rows_recipe
from mixalign.errors import MixalignError
from mixalign.models.tiny import byte_tokenizer

HOW = {"validation_fraction": 0.1, "seed": 0, "on_bad_row": "raise", "chat": False, "kinds": ("preference",)}


def rows(count: int, start: int = 0) -> list[dict]:
    answers = ({"prompt": f"question {n}", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(start, count))
    return [{**answer, "score": 1} for answer in answers]


def write(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


@pytest.fixture(autouse=True)
def _few_rows_are_many(monkeypatch):
    monkeypatch.setattr(readings, "SMALL", 20)


@pytest.fixture
def source(tmp_path):
    """The folder of a task with train rows, of which some are alike, and a few rows that validate."""
    folder = tmp_path / "maths"
    write(folder / "train.jsonl", [*rows(60), *rows(5)])
    write(folder / "validation.jsonl", rows(70, start=60))
    return folder


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def load(cache, path, how=HOW, **spec):
    found = load_kept(cache, "maths", TaskSpec.from_mapping("maths", {"path": str(path), **spec}), **how)
    found.keep()
    return found


def plain(found) -> tuple:
    look = found.look
    return (
        {split: [*examples] for split, examples in found.items()},
        (look.columns, look.reports, look.sorts.count, look.sorts.first, look.cut, look.source_rows),
    )


def said(caplog) -> list[tuple[str, int, str]]:
    found = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return found


@pytest.fixture
def reads(monkeypatch):
    """How often files are parsed."""
    times = []

    def counted(*args, **how):
        times.append(args[0])
        return load_task(*args, **how)

    monkeypatch.setattr(readings, "load_task", counted)
    return times


def test_what_was_read_comes_back_with_all_that_was_said_of_it(source, cache, reads, caplog):
    spec = TaskSpec.from_mapping("maths", {"path": str(source)})
    wanted, words = plain(load_task("maths", spec, **HOW)), said(caplog)
    assert "nothing is learned from `score`" in words[0][2]
    assert (plain(load(cache, source)), said(caplog)) == (wanted, words)
    assert reads == ["maths"]
    found = load(cache, source)
    assert said(caplog) == words
    assert reads == ["maths"]
    assert len(found["train"]) == 65
    assert found["validation"] == wanted[0]["validation"]
    assert found["train"].recipe == rows_recipe(wanted[0]["train"])
    assert plain(found) == wanted  # asks for the train rows, which are read then, without a word
    assert reads == ["maths", "maths"]
    assert said(caplog) == []


def test_a_table_of_tokens_is_found_without_the_rows(source, cache, reads, tmp_path, monkeypatch):
    monkeypatch.setattr("mixalign.data.tokens.cache.SMALL", 20)
    tokens = TokenCache(byte_tokenizer(), tmp_path / "tokens")
    settings = {"task": "maths", "form": "preference", "max_length": 50}
    first = tokens.tokenise(load(cache, source)["train"], **settings)
    again = tokens.tokenise(load(cache, source)["train"], **settings)
    assert again[1] == first[1]
    assert again[0].row_id_N.tolist() == first[0].row_id_N.tolist()
    assert reads == ["maths"]
    assert tokens.tokenise(load(cache, source)["train"], **{**settings, "max_length": 16})[1].truncated > 0
    assert reads == ["maths", "maths"]


def _other_text_of_the_same_size_and_time(source):
    """As `rsync` or `cp -p` leave it, or an editor within the clock's tick."""
    file = source / "train.jsonl"
    before = file.stat()
    file.write_text(file.read_text().replace("yes 7", "aye 7"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size


def _another_file_under_the_same_name(source):
    write(source / "new.jsonl", rows(59))
    os.replace(source / "new.jsonl", source / "train.jsonl")


CHANGES = {
    "a text of the same size and time": _other_text_of_the_same_size_and_time,
    "another file": _another_file_under_the_same_name,
    "a row of validation": lambda source: write(source / "validation.jsonl", rows(71, start=61)),
    "a split more": lambda source: write(source / "test.jsonl", rows(90, start=80)),
    "a split less": lambda source: (source / "validation.jsonl").unlink(),
    "a split of another name": lambda source: (source / "validation.jsonl").rename(source / "test.jsonl"),
    "a split in data/": lambda source: write(source / "data" / "test.jsonl", rows(90, start=80)),
    "a file that is no split": lambda source: write(source / "extra.jsonl", rows(1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_read(source, cache, reads, caplog, change):
    load(cache, source)
    CHANGES[change](source)
    caplog.clear()
    found, words = plain(load(cache, source)), said(caplog)
    assert reads[:2] == ["maths", "maths"]
    assert found == plain(load_task("maths", TaskSpec.from_mapping("maths", {"path": str(source)}), **HOW))
    assert words == said(caplog)


@pytest.mark.parametrize("change", [{"seed": 1}, {"validation_fraction": 0.2}, {"chat": True}, {"on_bad_row": "skip"}])
def test_other_settings_are_another_reading(source, cache, reads, change):
    load(cache, source)
    load(cache, source, HOW | change)
    load(cache, source, columns={"score": None})
    assert len(reads) == 3


def test_other_code_reads_again(source, cache, reads, monkeypatch):
    load(cache, source)
    monkeypatch.setattr(readings, "CODE", "of another version")
    load(cache, source)
    assert len(reads) == 2


@pytest.mark.long
def test_the_hash_of_the_code_is_of_all_that_reads():
    code = "import sys, mixalign.data.readings; print(*(m.__file__ for n, m in sys.modules.items() if 'mixalign' in n))"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout.split()
    hashed = {str(file) for file in readings.code_files()}
    assert len(loaded) > 20
    assert {*loaded} <= hashed


def test_patterns_and_files_of_splits_are_looked_at(tmp_path, cache, reads):
    for number in range(2):
        write(tmp_path / f"part{number}.jsonl", rows(30 * number + 30, start=30 * number))
    write(tmp_path / "held.jsonl", rows(75, start=70))
    ask = (cache, tmp_path / "part*.jsonl")
    assert [len(load(*ask, validation=str(tmp_path / "held.jsonl"))["train"]) for _ in range(2)] == [60, 60]
    assert len(reads) == 1
    write(tmp_path / "part2.jsonl", rows(70, start=60))
    assert len(load(*ask, validation=str(tmp_path / "held.jsonl"))["train"]) == 70
    write(tmp_path / "held.jsonl", rows(76, start=70))
    assert len(load(*ask, validation=str(tmp_path / "held.jsonl"))["validation"]) == 6
    assert len(reads) == 3


def test_a_file_that_changes_while_it_is_read_is_not_kept(source, cache, monkeypatch):
    def slow(*args, **how):
        found = load_task(*args, **how)
        write(source / "train.jsonl", rows(59))
        return found

    monkeypatch.setattr(readings, "load_task", slow)
    load(cache, source)
    assert not any(cache.iterdir())


def test_rows_that_have_changed_by_the_time_they_are_asked_for_are_refused(source, cache):
    load(cache, source)
    found = load(cache, source)
    write(source / "train.jsonl", rows(59))
    with pytest.raises(MixalignError, match=r"maths changed while it was read\. Start the same command again\."):
        found["train"][0]


def test_rows_of_a_split_that_is_gone_by_then_are_refused_alike(source, cache):
    write(source / "test.jsonl", rows(110, start=80))
    load(cache, source)
    found = load(cache, source)
    (source / "test.jsonl").unlink()
    for split in ("test", "train", "test"):
        if split == "train":
            assert len([*found[split]]) == 65
            continue
        with pytest.raises(MixalignError, match=r"maths changed while it was read\."):
            found[split][0]


def test_nothing_is_kept_while_warnings_are_off(source, cache):
    logging.disable(logging.WARNING)
    try:
        load(cache, source)
    finally:
        logging.disable(logging.NOTSET)
    assert not any(cache.iterdir())
    load(cache, source)
    assert len([*(cache / "known").iterdir()]) == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"recipe": 1}'])
def test_a_damaged_entry_is_made_again(source, cache, reads, damage):
    wanted = plain(load(cache, source))
    (entry,) = (cache / "known").iterdir()
    whole = entry.read_text()
    entry.write_text(damage)
    assert plain(load(cache, source)) == wanted
    assert len(reads) == 2
    assert entry.read_text() == whole


@pytest.mark.parametrize("odd", [("a", "tuple"), {1: "a number"}, date(2026, 1, 31), float("nan")])
def test_what_json_does_not_give_back_is_not_kept(source, cache, monkeypatch, odd):
    def with_odd(*args, **how):
        found = load_task(*args, **how)
        found["validation"][0]["chat_template_kwargs"] = {"odd": odd}
        return found

    monkeypatch.setattr(readings, "load_task", with_odd)
    assert load(cache, source)["validation"][0]["chat_template_kwargs"] == {"odd": odd}
    assert not any(cache.iterdir())


def test_a_folder_is_never_taken_for_a_pattern(tmp_path, cache):
    """As a file that its name matches would then be looked at in the place of its own."""
    folder = tmp_path / "a[1]"
    (folder / "data").mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")
    write(tmp_path / "a1", rows(3))
    assert readings._recipe("maths", TaskSpec.from_mapping("maths", {"path": str(folder)}), HOW) is None


@pytest.mark.parametrize(
    "spec", [{"path": "https://x.org/a.jsonl"}, {"path": "a/b"}, {"path": "json", "data_files": "a"}]
)
def test_what_lies_elsewhere_is_none_of_its_business(spec, cache):
    assert readings._recipe("maths", TaskSpec.from_mapping("maths", spec), HOW) is None


def test_errors_are_those_of_reading(source, cache):
    write(source / "train.jsonl", [{"prompt": 3}])
    for _ in range(2):
        with pytest.raises(MixalignError, match=r"Task `maths`, .*train\.jsonl, line 1: "):
            load(cache, source)
    assert not any(cache.iterdir())


def test_nothing_is_kept_where_there_is_no_cache(source, tmp_path):
    """As a command that is refused makes none."""
    load(tmp_path / "none", source)
    assert not (tmp_path / "none").exists()


def test_few_rows_are_not_kept(tmp_path, cache):
    write(tmp_path / "a.jsonl", rows(15))
    assert not isinstance(load(cache, tmp_path / "a.jsonl")["train"], HashedRows)
    assert not any(cache.iterdir())

"""On which rows a run is judged, where only some tasks have test rows."""

import json

from mixalign.config.compose import compose_settings
from mixalign.jobs.job import prepare


def rows(path, first, number):
    lines = [{"prompt": f"say {n}", "chosen": f"ab{n}", "rejected": f"cd{n}"} for n in range(first, first + number)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def job_of(folder, tiny_local):
    return prepare(compose_settings(tiny_local(f"data.root={folder}")))


def test_tasks_without_test_rows_stand_on_their_validation_rows_and_are_named(tmp_path, tiny_local, caplog):
    for task in "abc":
        rows(tmp_path / task / "train.jsonl", 0, 40)
    rows(tmp_path / "b" / "test.jsonl", 100, 6)
    job = job_of(tmp_path, tiny_local)
    assert job.final_split == "test"
    assert [len(table) for table in job.data["test"]] == [4, 6, 4]
    assert job.splits_of("test") == ["validation", "test", "validation"]
    assert job.splits_of("validation") == ["validation"] * 3
    assert job.data["test"][0].row_id_N.tolist() == job.data["validation"][0].row_id_N.tolist()
    (said,) = [record.getMessage() for record in caplog.records if "test rows" in record.getMessage()]
    assert said.startswith("The numbers of `a`, `c` are of validation rows")


def test_all_or_none_is_nothing_to_speak_of(tmp_path, tiny_local, caplog):
    for task in "ab":
        rows(tmp_path / task / "train.jsonl", 0, 40)
    assert job_of(tmp_path, tiny_local).final_split == "validation"
    for task in "ab":
        rows(tmp_path / task / "test.jsonl", 100, 6)
    job = job_of(tmp_path, tiny_local)
    assert job.splits_of(job.final_split) == ["test", "test"]
    assert "test rows" not in caplog.text


def test_max_rows_that_chose_long_rows_says_how_many_are_left(tmp_path, tiny_local, caplog):
    rows = [{"prompt": "so " * (100 if n % 2 else 2) + str(n), "chosen": "yes", "rejected": "no"} for n in range(60)]
    for task in ("cut", "whole"):
        (tmp_path / f"{task}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    tasks = (f"data.tasks.{task}.path={tmp_path / task}.jsonl" for task in ("cut", "whole"))
    job = prepare(compose_settings(tiny_local(*tasks, "data.tasks.cut.max_rows=20", "data.max_length=60")))
    kept = len(job.data["train"][0])
    assert 0 < kept < 20
    said = [message for message in caplog.messages if "`max_rows: 20`" in message]
    assert len(said) == 1  # not of the task that takes all rows
    assert said[0].startswith("Task `cut`: of the rows that `max_rows: 20` chose, ")
    assert f"{20 - kept} of 20 are dropped as too long or without an answer, and {kept} are trained on." in said[0]

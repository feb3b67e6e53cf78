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
    assert said.startswith("Of the tasks only `b` have test rows. In the results `a`, `c` stand on validation rows")


def test_all_or_none_is_nothing_to_speak_of(tmp_path, tiny_local, caplog):
    for task in "ab":
        rows(tmp_path / task / "train.jsonl", 0, 40)
    assert job_of(tmp_path, tiny_local).final_split == "validation"
    for task in "ab":
        rows(tmp_path / task / "test.jsonl", 100, 6)
    job = job_of(tmp_path, tiny_local)
    assert job.splits_of(job.final_split) == ["test", "test"]
    assert "test rows" not in caplog.text

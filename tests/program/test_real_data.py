"""Five real preference tasks and five real SFT domains, given as folders of JSON lines."""

import json
from pathlib import Path

import pytest

from mixalign.config.compose import compose_settings
from mixalign.jobs.job import prepare
from mixalign.verbs import plan

MINI = Path(__file__).resolve().parents[3] / "shared" / "data" / "mini"
TASKS = {
    "preference": ["code", "harmless", "helpful", "honest", "math"],
    "sft": ["coding", "instruction", "math", "reasoning", "safety"],
}

pytestmark = pytest.mark.skipif(not MINI.is_dir(), reason="the folder shared/data/mini is not beside the repository")


@pytest.fixture(params=TASKS)
def form(request) -> str:
    return request.param


@pytest.fixture
def overrides(tiny_local, form):
    objective = {"preference": "dpo", "sft": "sft"}[form]
    return tiny_local(
        f"data.root={MINI / form}",
        f"objective={objective}",
        "data.max_length=1024",
        "steps=2",
        "optimizer.warmup_steps=0",
    )


def test_every_task_is_read_whole(overrides, form):
    job = prepare(compose_settings(overrides))
    assert job.tasks == TASKS[form]
    assert {split: [len(table) for table in tables] for split, tables in job.data.items()} == {
        "train": [64] * 5,
        "validation": [32] * 5,
        "test": [32] * 5,
    }
    for _, count in job.counts:
        assert count.dropped_long_prompt == count.dropped_unsupervised == count.truncated == count.prefix_mismatch == 0


def test_the_plan_names_every_task(overrides, form, capsys):
    plan.run(compose_settings(overrides))
    out = capsys.readouterr().out
    assert all(task in out for task in TASKS[form])
    assert "warning" not in out


@pytest.mark.long
def test_a_run_on_every_task(overrides, form, train):
    run = train(*overrides, "data.tasks=null", "mixer=uniform", "specialists.train=never", "reference.sft_steps=1")
    result = json.loads((run / "eval.json").read_text())
    assert list(result["tasks"]) == TASKS[form]
    assert {row["rows"] for row in result["tasks"].values()} == {32}

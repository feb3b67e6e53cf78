"""The plan: rows, shares and epochs by arithmetic, the stages that would run, and what deserves a second look."""

import pytest

from mixalign.config.compose import compose_settings
from mixalign.jobs.job import prepare
from mixalign.verbs import plan


def rows_of(overrides: list[str]) -> dict[str, plan.PlanRow]:
    settings = compose_settings(overrides)
    return {row.counts.task: row for row in plan.plan_rows(prepare(settings), settings.mixer)}


@pytest.fixture
def unequal(tiny):
    """helpful has 60 rows, compare 20."""
    sizes = "validation_rows: 8, test_rows: 8"
    return lambda *more: tiny(
        "data.tasks.reverse=null",
        f"data.tasks.helpful={{generator: helpful, rows: 60, {sizes}}}",
        f"data.tasks.compare={{generator: compare, rows: 20, {sizes}}}",
        *more,
    )


def test_shares_and_epochs_of_a_proportional_mixture(unequal):
    """4 steps of 6 rows are 24 draws: 60 of 80 rows get 18 of them, 20 rows get 6; either way 0.3 epochs."""
    rows = rows_of(unequal("mixer=proportional"))
    assert {task: row.sample for task, row in rows.items()} == pytest.approx({"helpful": 0.75, "compare": 0.25})
    assert {task: row.epochs for task, row in rows.items()} == pytest.approx({"helpful": 0.3, "compare": 0.3})
    assert {task: row.epochs_if_all for task, row in rows.items()} == pytest.approx({"helpful": 0.4, "compare": 1.2})
    assert {row.validation for row in rows.values()} == {8}


def test_shares_of_tokens_count_the_length_of_rows(unequal):
    """A row of helpful is <s> h.....= and two answers of 5 + EOS and 2 + EOS; one of compare <s> c....= and 1 + EOS."""
    rows = rows_of(unequal("mixer=uniform"))
    length = {"helpful": 8 + 6 + 3, "compare": 7 + 2 + 2}
    assert {task: row.counts.tokens / row.counts.kept for task, row in rows.items()} == length
    assert rows["helpful"].token_share == pytest.approx(17 / 28)
    assert rows["compare"].epochs == pytest.approx(12 / 20)


@pytest.mark.parametrize(
    ("mixer", "stages"),
    [
        ("ama_s", ["reference: 3 steps", "specialists: 3, 9 steps in all", "generalist: 4 steps"]),
        ("uniform", ["reference: 3 steps", "generalist: 4 steps"]),
    ],
)
def test_the_plan_is_printed_and_nothing_is_trained(tiny, tmp_path, capsys, mixer, stages):
    plan.run(compose_settings(tiny(f"mixer={mixer}", f"cache_dir={tmp_path / 'none'}")))
    out = capsys.readouterr().out
    assert [line.split(" x ")[0] for line in out.splitlines() if " x " in line] == [
        f"{stage} of SFT" if stage.startswith("reference") else stage for stage in stages
    ]
    assert ("the mixer moves it" in out) == (mixer == "ama_s")
    assert "warning" not in out
    for task in ("helpful", "reverse", "compare"):
        assert task in out
    assert not any(tmp_path.iterdir())


def test_sft_needs_no_reference_stage(tiny, capsys):
    plan.run(compose_settings(tiny("objective=sft", "mixer=uniform")))
    assert "reference:" not in capsys.readouterr().out


def test_a_task_that_is_repeated_too_often_is_named(unequal):
    rows = list(rows_of(unequal("mixer=uniform", "steps=40")).values())
    assert [row.epochs for row in rows] == pytest.approx([120 / 60, 120 / 20])
    (said,) = plan.warnings_of(rows)
    assert "`compare` (6.0 times)" in said
    assert "helpful" not in said


def test_rows_that_are_cut_or_dropped_are_named(tiny):
    said = plan.warnings_of(list(rows_of(tiny("data.max_length=11")).values()))
    # <s> h.....= and 5 letters and EOS are 14 tokens; <s> c....= and a sign and EOS are 9
    assert [text.split(":")[0] for text in said] == ["Task `helpful`", "Task `reverse`"]
    assert "40 of 40 rows are cut" in said[0]

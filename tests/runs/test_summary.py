"""Per-task means as eval.json and as a table."""

import json

import pytest
import torch

from mixalign.final_rows import FinalRows
from mixalign.runs.summary import eval_json, eval_table, remarks, write_results

TASKS = ["easy", "hard", "empty"]
NAN = float("nan")


def summary(split_of=("test",) * 3, **quantities: list[float]) -> dict:
    counts = torch.tensor([3.0, 2.0, 4.0])
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in quantities.items()}
    evaluation = {"count": counts, **values}
    about = {"mixer": "ama_s", "static": False, "objective": "dpo", "seed": 7, "split": "test"}
    return eval_json(**about, split_of=list(split_of), tasks=TASKS, evaluation=evaluation)


@pytest.fixture
def result():
    """gap = loss - specialist_loss; the worst excess and the worst loss are of different tasks."""
    return summary(
        loss=[0.5, 0.25, 0.125],
        accuracy=[1.0, 0.5, 0.75],
        margin=[0.3, 0.2, 0.1],
        specialist_loss=[0.75, 0.125, 0.125],
        gap=[-0.25, 0.125, 0.0],
        excess=[0.0, 0.25, 0.125],
    )


def test_every_task_has_its_rows_and_numbers(result):
    assert set(result) == {"mixer", "static", "objective", "seed", "split", "tasks", "mean", "worst"}
    assert (result["mixer"], result["objective"], result["seed"], result["split"]) == ("ama_s", "dpo", 7, "test")
    assert result["static"] is False
    assert result["tasks"]["hard"] == {
        "split": "test",
        "held_out": True,
        "rows": 2,
        "loss": 0.25,
        "accuracy": 0.5,
        "margin": 0.2,
        "specialist_loss": 0.125,
        "gap": 0.125,
        "excess": 0.25,
    }


def test_the_mean_is_over_tasks_not_over_rows(result):
    assert result["mean"]["loss"] == pytest.approx((0.5 + 0.25 + 0.125) / 3)
    assert result["mean"]["accuracy"] == pytest.approx(0.75)
    assert "count" not in result["mean"]


def test_the_worst_is_the_highest_loss_and_the_lowest_accuracy(result):
    assert result["worst"] == {
        "excess": {"task": "hard", "value": 0.25},
        "gap": {"task": "hard", "value": 0.125},
        "loss": {"task": "easy", "value": 0.5},
        "accuracy": {"task": "hard", "value": 0.5},
    }


def test_what_was_not_measured_is_absent():
    found = summary(loss=[0.5, 0.25, 0.125], accuracy=[1.0, 0.5, 0.75])
    assert set(found["worst"]) == {"loss", "accuracy"}
    assert set(found["tasks"]["easy"]) == {"rows", "split", "held_out", "loss", "accuracy"}
    assert "excess" not in eval_table(found)


def test_a_task_without_a_row_is_not_the_worst():
    found = summary(loss=[0.5, 0.25, NAN], accuracy=[1.0, 0.5, NAN])
    assert found["worst"] == {"loss": {"task": "easy", "value": 0.5}, "accuracy": {"task": "hard", "value": 0.5}}


def test_validation_rows_are_never_held_out_without_a_word():
    loss = {"loss": [0.5, 0.25, 0.125]}
    some = summary(("test", "validation", "test"), **loss)
    assert [row["held_out"] for row in some["tasks"].values()] == [True, False, True]
    assert [row["split"] for row in some["tasks"].values()] == ["test", "validation", "test"]
    assert "on the test or validation rows" in eval_table(some)
    assert "on the validation rows" in eval_table(summary(("validation",) * 3, **loss))
    for result in (some, summary(**loss)):
        assert ("are of validation rows" in eval_table(result)) == bool(FinalRows.of([result]).caution)


def test_it_is_plain_json(result):
    assert json.loads(json.dumps(result)) == result


def test_the_table_marks_the_worst_excess(result):
    lines = eval_table(result).splitlines()
    assert "ama_s (dpo, seed 7) on the test rows" in lines[0]
    (marked,) = (line for line in lines if "<- worst" in line)
    assert "hard" in marked
    (easy,) = (line for line in lines if "easy" in line)
    assert easy.split() == ["easy", "3", "0.500", "0.750", "-0.250", "0.000", "1.000", "0.300"]


def test_the_table_marks_the_worst_loss_when_there_is_no_excess():
    (marked,) = (
        line
        for line in eval_table(summary(loss=[0.5, 0.25, 0.125], accuracy=[1.0, 0.5, 0.75])).splitlines()
        if "<- worst" in line
    )
    assert "easy" in marked


def test_a_number_that_is_not_finite_is_null_and_named(tmp_path, caplog):
    result = summary(loss=[0.5, NAN, float("inf")], accuracy=[NAN, NAN, NAN])
    write_results(tmp_path / "eval.json", result)

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    saved = json.loads((tmp_path / "eval.json").read_text(), parse_constant=refuse)
    assert [saved["tasks"][task]["loss"] for task in TASKS] == [0.5, None, None]
    assert saved["worst"]["loss"] == {"task": "empty", "value": None}
    assert "Task `hard` has no finite loss, accuracy on its 2 test rows" in caplog.text
    assert "n/a" in eval_table(saved)


@pytest.mark.parametrize(
    ("start", "specialist", "loss", "named"),
    [
        (10.0, 9.3, 4.2, True),
        (4.0, 4.1, 2.0, True),  # worse than the start
        (10.0, 4.4, 4.2, False),  # about as good
        (10.0, 6.0, 4.2, False),  # the model gained more from other tasks
        (10.0, 4.2, 9.3, False),
        (None, 9.3, 4.2, False),  # `eval.start=false`
    ],
)
def test_a_specialist_far_behind_the_model_is_named(start, specialist, loss, named, tmp_path, caplog):
    row = {"rows": 8, "loss": loss, "specialist_loss": specialist} | ({"start_loss": start} if start else {})
    write_results(tmp_path / "eval.json", {"tasks": {"json": row}, "split": "test"})
    assert (f"that of `json` has loss {specialist:.3f}, the model {loss:.3f}" in caplog.text) == named


@pytest.mark.parametrize(
    ("exported", "line"),
    [
        (
            {"step": 3, "monitor": "eval/worst_loss", "value": 0.25},
            "step 3 of 4, with the lowest worst loss on validation rows: 0.250",
        ),
        (
            {
                "step": 3,
                "monitor": "eval/m",
                "candidates": {"by": "eval/m", "last": 0.5, "best": 0.25, "averaged": 0.3},
            },
            "step 3 of 4, with the lowest m on validation rows: last step 0.500, best step 0.250, mean of the last "
            "weights 0.300",
        ),
        (
            {"step": 4, "averaged": [3, 4], "monitor": None, "candidates": {"by": "eval/m", "averaged": 0.25}},
            "the mean of the weights of steps 3 to 4 of 4; m on validation rows: mean of the last weights 0.250",
        ),
        ({"step": 3, "monitor": None}, "step 3 of 4, the last one"),
    ],
)
def test_what_chose_the_weights_is_said_to_be_of_validation_rows(result, exported, line):
    said = " ".join(eval_table(result | {"steps": 4, "exported": exported}).split())
    assert said.endswith(f"kept: {line}")
    assert "exported" not in said  # that is what `mixalign export` does


@pytest.mark.parametrize(
    ("gap", "excess", "rows", "named"),
    [
        (-0.057, 0.0, 20, True),  # every row is better
        (-0.057, 0.005, 20, True),
        (-0.057, 0.03, 20, False),  # as a few rows far behind make it
        (-0.057, 0.0, 4, False),  # few rows
        (-0.012, 0.0, 20, False),  # about as good
        (0.017, 0.019, 20, False),
        (-1.2, 0.0, 20, False),  # far behind, of which a warning tells
        (None, 0.0, 20, False),
    ],
)
def test_a_task_that_ended_better_than_its_specialist_is_named(gap, excess, rows, named):
    row = {"rows": rows, "gap": gap, "excess": excess, "start_loss": 2.2, "specialist_loss": 1.7}
    row["loss"] = 1.7 + (gap or 0.0)
    said = remarks({"tasks": {"math": {"rows": 20, "loss": 1.0}, "reasoning": row}})
    assert ("reasoning ended better than its specialist" in said) == named
    assert bool(said) == named


@pytest.mark.parametrize(
    ("objective", "quantities", "words"),
    [
        ("sft", {}, "share of answer tokens that are ranked first"),
        ("dpo", {"margin": [0.1] * 3}, "share of pairs whose chosen answer is ranked first"),
        ("kto", {"margin": [0.1] * 3}, "share of answers on the side of their label"),
        ("mine", {"margin": [0.1] * 3}, "share of pairs whose chosen answer is ranked first"),
        ("mine", {}, "share of answer tokens that are ranked first"),
    ],
)
def test_the_table_says_what_accuracy_is(objective, quantities, words):
    found = summary(loss=[0.5] * 3, accuracy=[0.5] * 3, **quantities) | {"objective": objective}
    assert f"\naccuracy: {words}" in eval_table(found)
    assert "accuracy" not in eval_table(summary(loss=[0.5] * 3) | {"objective": objective})


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ([(0.693, 0.692), (0.693, 0.688)], True),
        ([(0.693, 0.692), (0.693, 0.680)], False),
        ([(0.693, 0.720), (0.693, 0.693)], False),  # it moved, if to the worse
        ([(None, 0.692), (None, 0.692)], False),  # nobody knows
        ([(2.0, None), (2.0, NAN)], False),
    ],
)
def test_a_training_that_hardly_moved_the_model_is_told(ends, said):
    result = {"tasks": {str(n): {"start_loss": start, "loss": end} for n, (start, end) in enumerate(ends)}}
    assert ("hardly moved the model" in remarks(result)) == said

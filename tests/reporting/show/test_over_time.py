"""Runs that have little to draw: no figure is empty or a single point, and what is left out is said."""

import json
import math

import pytest

from mixalign.reporting.show.card import Shown, write_card
from mixalign.reporting.show.figures.paths import excess_figure, weights_figure, worst_figure
from mixalign.reporting.show.over_time import without_curves
from mixalign.reporting.show.view import page_of
from tests.reporting.made_up import find

TWO = {"a": 0.1, "b": 0.2}
ROUND = {"round": 0, "mean_target_loss": 0.5, "target_loss": {"a": 0.5, "b": 0.5}, "volumes": {"a": 10, "b": 20}}
KINDS = {  # what a run is -> how it is written, what the page says instead of a curve, figures
    "many validations": ({}, "", 5),
    "one validation": ({"steps": 10}, "was measured once, at step 10, so there are no curves. The worst task", 3),
    "no validation": ({"metrics": False}, "", 5),  # the excess of its batches
    "one step": ({"steps": 1, "metrics": False}, "The mixture was recorded at a single step", 1),
    "nothing": ({"history": False, "metrics": False}, "", 1),
    "one task": ({"excess": {"a": 0.1}}, "", 2),
    "thirty tasks": ({"excess": {f"task {k}": 0.1 * k for k in range(30)}}, "", 5),
    "no specialists": ({"excess": dict.fromkeys(TWO)}, "", 5),
    "one round": ({"rounds": [ROUND], "best_round": 0}, "Only round 0 was trained", 5),
    "two rounds": ({"rounds": [ROUND, {**ROUND, "round": 1}], "best_round": 0}, "", 7),
}


def points(figure):
    """How many values the reader sees, without those that belong to another trace."""
    shown = [one for one in figure.traces if not one["meta"]["hidden"] or "markers" in one.get("mode", "")]
    return sum(isinstance(y, str) or math.isfinite(y) for one in shown for y in one["y"] if y is not None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", [1, 2])
def test_no_figure_is_empty_and_what_is_left_out_is_said(kind, labels, write_run, tmp_path):
    how, said, count = KINDS[kind]
    for mixer in ("ama_s", "uniform")[:labels]:
        write_run(mixer, 0, **{"excess": TWO, **how})
    (group,) = page_of(find(tmp_path)).groups
    figures = [*group.over_time, *group.tasks, *(group.rounds.figures if group.rounds else [])]
    assert all(points(figure) > 1 for figure in figures), [(one.title, points(one)) for one in figures]
    sentences = " ".join([*group.remarks, *(group.rounds.sentences if group.rounds else [])])
    assert said in sentences
    assert said or not group.remarks
    if labels == 1:
        assert len(figures) == count, [figure.title for figure in figures]


def test_one_validation_says_its_values(write_run, tmp_path):
    folder = write_run("ama_s", 0, TWO, steps=10)
    (folder / "metrics.csv").write_text("step,eval_excess/a,eval_excess/b\n8,0.25,0.125\n")
    groups = {"ama_s": find(tmp_path)}
    assert without_curves(groups) == [
        "Validation excess was measured once, at step 8, so there are no curves. The worst task: ama_s 0.250 (a), in "
        "nats."
    ]
    assert worst_figure(groups, "worst_excess") is None
    assert excess_figure(groups) is None


def test_a_mean_over_steps_is_not_the_model_that_was_validated(write_run, tmp_path):
    folder = write_run("ama_s", 0, TWO, steps=10)
    (folder / "metrics.csv").write_text("step,eval_excess/a,eval_excess/b\n8,0.25,0.125\n")
    file = folder / "eval.json"
    exported = {"step": 8, "averaged": [4, 8]}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"exported": exported}))
    (said,) = without_curves({"ama_s": find(tmp_path)})
    assert said.endswith("in nats. What is kept is a mean over steps, whose numbers are in the tables.")


def test_validations_at_other_steps_are_said_to_be_so(write_run, tmp_path):
    for mixer, step in (("ama_s", 8), ("uniform", 9)):
        folder = write_run(mixer, 0, TWO, steps=10)
        (folder / "metrics.csv").write_text(f"step,eval_excess/a\n{step},0.25\n")
    (said,) = without_curves({run.label: [run] for run in find(tmp_path)})
    assert "was measured once, at steps that differ, so there are no curves" in said


def test_a_point_beside_a_curve_is_seen(write_run, tmp_path):
    write_run("ama_s", 0, TWO, steps=10)
    write_run("uniform", 0, TWO, steps=100)
    runs = find(tmp_path)
    groups = {run.label: [run] for run in runs}
    lines = {
        one["meta"]["run"]: one for one in worst_figure(groups, "worst_excess").traces if not one["meta"]["hidden"]
    }
    assert {one["mode"]: len(one["x"]) for one in lines.values()} == {"markers": 1, "lines": 10}
    assert without_curves(groups) == []


def test_one_that_diverged_does_not_squash_the_others(write_run, tmp_path):
    for mixer, height in (("uniform", 0.4), ("ama_s", 0.5), ("odm", 90.0)):
        folder = write_run(mixer, 0, TWO)
        rows = [f"{step},{height},{height / 2}" for step in (10, 20)]
        (folder / "metrics.csv").write_text("\n".join(["step,eval_excess/a,eval_excess/b", *rows, ""]))
    groups = {run.label: [run] for run in find(tmp_path)}
    figure = worst_figure(groups, "worst_excess")
    assert figure.axes["yaxis"]["range"] == [0.0, pytest.approx(0.54)]
    assert figure.caption.endswith("seen after a double click: odm.")


def test_bands_of_the_second_ten_tasks_have_their_colour(write_run, tmp_path):
    write_run("ama_s", 0, {f"task {k}": 0.1 for k in range(12)})
    patterns = [one["fillpattern"] for one in weights_figure({"ama_s": find(tmp_path)}).traces if "fillpattern" in one]
    assert [one["bgcolor"] for one in patterns] == ["var(--t0)", "var(--t1)"]


def test_an_entry_for_one_task_does_not_hide_the_others_and_the_model_is_named_as_its_card_names_it(
    write_run, tmp_path
):
    data = {"root": "tasks", "tasks": {"b": {"apply_chat_template": True}}}
    folder = write_run("ama_s", 0, TWO, settings={"data": data, "model": {"package": "llm_small"}})
    ((shown,),) = [group.runs for group in page_of(find(tmp_path)).groups]
    assert (shown.facts["Data"], shown.facts["Model"]) == ("a, b", "llm_small")
    origin = {"base_model": "org/small", "base_file": "small.Q4.gguf"}
    (folder / "identity.json").write_text(json.dumps({"origin": origin}))
    ((shown,),) = [group.runs for group in page_of(find(tmp_path)).groups]
    assert shown.facts["Model"] == "org/small (out of the GGUF file small.Q4.gguf)"
    (folder / "model").mkdir()
    write_card(folder, folder / "model", Shown())
    assert "`org/small` (out of the GGUF file small.Q4.gguf)" in (folder / "model" / "README.md").read_text()


def test_tasks_that_the_command_left_out_are_not_named(write_run, tmp_path):
    tasks = {"a": {"generator": "a"}, "b": {"path": "rows.jsonl"}, "gone": None}
    write_run("ama_s", 0, TWO, settings={"data": {"tasks": tasks}})
    ((shown,),) = [group.runs for group in page_of(find(tmp_path)).groups]
    assert shown.facts["Data"] == "a, b (rows.jsonl)"
    assert "gone" not in json.dumps(shown.facts)

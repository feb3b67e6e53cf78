"""Figures of the page: what they show of made-up runs, and that plotly knows every word in them."""

import json
import math
import re

import pytest

from mixalign.reporting.judge.comparison import compare
from mixalign.reporting.show.figures.ends import cost_figure, dumbbell_figure, forest_figures, pareto_figure
from mixalign.reporting.show.figures.paths import excess_figure, rows_figure, weights_figure, worst_figure
from mixalign.reporting.show.figures.spec import Figure, trace
from mixalign.reporting.show.page import HERE, STYLE
from mixalign.reporting.show.view import page_of
from tests.reporting.made_up import COSTS, find


@pytest.fixture
def groups(write_run, tmp_path):
    """Two labels of three seeds; excess of b: 0.1 and 0.3 with some noise."""
    for mixer, worst in (("ama_s", 0.1), ("uniform", 0.3)):
        for seed in range(3):
            costs = COSTS["excess" if mixer == "ama_s" else "plain"][0]
            scores = {"exported": {"step": 30}}
            excess = {"a": 0.02, "b": worst + 0.01 * seed * (seed % 2)}
            write_run(mixer, seed, excess, target=[0.2, 0.8], costs=costs, settings={"steps": 100}, scores=scores)
    runs = find(tmp_path)
    return {label: [run for run in runs if run.label == label] for label in ("ama_s", "uniform")}


def of(figure, run="", task="", hidden=False):
    wanted = {"run": run, "task": task, "hidden": hidden}
    return [one for one in figure.traces if one["meta"] == wanted]


def runs_of(groups):
    return [run for group in groups.values() for run in group]


def test_weights_are_shares_of_one_run_at_a_time(groups):
    figure = weights_figure(groups)
    assert figure.single
    a, b = (of(figure, "ama_s", task)[0]["y"] for task in ("a", "b"))
    assert [x + y for x, y in zip(a, b, strict=True)] == pytest.approx([1.0] * len(a))
    assert b[-1] == pytest.approx(0.8, abs=0.01)


def test_the_worst_curve_is_of_validation_and_its_mark_of_test(groups):
    figure = worst_figure(groups, "worst_excess")
    (line,) = of(figure, "ama_s")
    mark = of(figure, "ama_s", hidden=True)[-1]
    assert (mark["x"], mark["y"]) == ([30], [pytest.approx(0.31 / 3)])
    assert "on test rows" in mark["hovertemplate"]
    assert len(line["x"]) == 8  # validations
    assert "validation rows; the diamond is the value on test rows" in figure.caption
    (task_mark,) = of(excess_figure(groups), "ama_s", "a", hidden=True)
    assert task_mark["y"] == [pytest.approx(0.02)]


def test_curves_fall_back_to_training_and_to_loss(write_run, tmp_path):
    write_run("ama_s", 0, metrics=False)
    figure = excess_figure({"ama_s": find(tmp_path)})
    assert figure.title == "Training excess, smoothed of every task"
    assert "The curve is measured on training rows; the diamond is the value on test rows" in figure.caption
    path = write_run("ama_s", 1, {"a": None, "b": None}, folder="bare/1", history=False)
    rows = (path / "metrics.csv").read_text().replace("eval_excess", "other")
    (path / "metrics.csv").write_text(rows)
    assert excess_figure({"ama_s": find(tmp_path / "bare")}).title == "Validation loss of every task"


def test_samples_seen_are_summed_by_task(groups):
    seen = rows_figure(groups)
    assert [one["y"] for one in seen.traces] == [["uniform", "ama_s"]] * 2  # best on top
    rows = [run.mix_history.count_NK.sum(0)[0] for run in groups["ama_s"]]
    assert of(seen, task="a")[0]["x"][1] == pytest.approx(sum(rows) / 3)


def test_a_dumbbell_goes_from_the_start_to_the_end_past_the_specialist(write_run, tmp_path):
    row = {"rows": 9, "loss": 0.5, "specialist_loss": 0.4, "excess": 0.1}
    scores = {"tasks": {"a": {**row, "start_loss": 2.0}, "b": row}}
    write_run("ama_s", 0, {"a": 0.1, "b": 0.1}, scores=scores, objective="sft")
    figure = dumbbell_figure({"ama_s": find(tmp_path)})
    bars, start, specialist, result = figure.traces
    assert bars["y"] == [*["b"] * 3, *["a"] * 3]
    assert bars["x"][3:] == [2.0, 0.5, None]
    assert math.isnan(start["x"][0])  # nobody measured where b started
    assert (start["x"][1], specialist["x"], result["x"]) == (2.0, [0.4, 0.4], [0.5, 0.5])
    assert json.loads(figure.json)["data"][1]["x"] == [None, 2.0]


def test_costs_differences_and_the_front(groups):
    comparison = compare(runs_of(groups))
    (ours,) = of(cost_figure(comparison), "ama_s")
    assert ours["x"] == [4.0]
    assert cost_figure(comparison).axes["xaxis"]["title"]["text"].endswith("in those of uniform")
    assert cost_figure(comparison).caption.endswith("lower worst excess for less time. Bars are one standard error.")
    front = pareto_figure(comparison).traces[0]
    assert len(front["x"]) == 1  # uniform is worse in both
    figures = forest_figures(comparison)
    assert [figure.title for figure in figures] == [
        "Worst excess minus that of uniform",
        "Mean loss minus that of uniform",
    ]
    (point,) = figures[0].traces
    assert point["x"] == [pytest.approx(-0.2)]
    assert point["marker"]["symbol"] == "circle"  # its interval leaves zero out


def test_a_cost_is_set_against_what_is_compared(write_run, tmp_path):
    for mixer in ("ama_s", "uniform"):
        write_run(mixer, 0, {"a": None, "b": None}, costs=COSTS["plain"][0])
    assert cost_figure(compare(find(tmp_path))).caption.endswith(": a lower worst loss for less time.")


def test_what_lies_far_beyond_does_not_stretch_the_axis(write_run, tmp_path):
    for label, worst in (("uniform", 0.3), ("ama_s", 0.1), ("odm", 0.301), ("merge_ties", 9.0)):
        for seed in range(3):
            write_run(label, seed, {"a": 0.01, "b": worst + 0.01 * (seed + len(label)) % 0.03}, metrics=False)
    figure = forest_figures(compare(find(tmp_path)))[0]
    assert figure.axes["xaxis"]["range"][1] < 1
    assert figure.caption.endswith("merge_ties.")
    symbols = {one["meta"]["run"]: one["marker"]["symbol"] for one in figure.traces}
    assert not symbols["ama_s"].endswith("-open")
    assert symbols["odm"].endswith("-open")  # its interval holds zero


def test_one_seed_or_one_label_has_nothing_to_compare(write_run, tmp_path):
    write_run("uniform", 0, {"a": 0.3, "b": 0.1}, history=False, metrics=False)
    comparison = compare(find(tmp_path))
    assert forest_figures(comparison) == []
    assert cost_figure(comparison) is None
    assert pareto_figure(comparison) is None
    groups = {"uniform": find(tmp_path)}
    assert [draw(groups) for draw in (weights_figure, excess_figure, rows_figure)] == [None] * 3
    assert worst_figure(groups, "worst_excess") is None


def test_the_data_is_safe_within_a_script():
    name = "</script><b>&amp; {x}"
    figure = Figure("t", "c", [trace([1.0, math.nan], [2, 1 / 3], name, run=name)])
    assert not set("<>&") & set(figure.json)
    (one,) = json.loads(figure.json)["data"]
    assert one["x"] == [1.0, None]
    assert one["y"] == [2, 0.33333]
    assert one["meta"]["run"] == name
    assert "<" not in one["name"].replace("<br>", "")  # plotly finds no markup in it


def test_every_colour_is_in_the_style(groups):
    page = page_of(runs_of(groups))
    (group,) = page.groups
    named = {name for figure in all_figures(group) for name in re.findall(r"var\((--\w+)\)", figure.json)}
    style = (HERE / STYLE).read_text()
    assert named
    assert all(style.count(f"{name}:") == 2 for name in named), "once for the light, once for the dark"


def all_figures(group):
    return [
        *group.over_time,
        *group.tasks,
        *group.costs,
        *group.forests,
        *(group.rounds.figures if group.rounds else []),
    ]


@pytest.mark.slow
def test_plotly_knows_every_attribute(groups):
    graph_objects = pytest.importorskip("plotly.graph_objects", reason="plotly is not installed")
    (group,) = page_of(runs_of(groups)).groups
    figures = all_figures(group)
    assert len(figures) == 9
    for figure in figures:
        plain = json.loads(re.sub(r"var\(--\w+\)", "#123456", figure.json))
        graph_objects.Figure(data=plain["data"], layout=plain["layout"])  # raises on a word that it does not know

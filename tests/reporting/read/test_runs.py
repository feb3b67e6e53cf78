"""A run folder is read whole; what kind of method it is, is read and not known by name."""

import json

import numpy as np
import pytest

from mixalign.errors import MixalignError
from mixalign.reporting.read.runs import load_run


def test_a_finished_run_is_read_whole(write_run):
    run = load_run(write_run("ama_r", 3, {"a": 0.1, "b": 0.2}, steps=40))
    assert (run.mixer, run.objective, run.seed, run.split, run.skipped) == ("ama_r", "dpo", 3, "test", "")
    assert run.tasks == ("a", "b")
    assert run.score("worst_excess") == pytest.approx(0.2)
    assert run.score("worst_accuracy") == pytest.approx(0.7)
    assert run.score("mean_loss") == pytest.approx(0.45)
    assert run.mix_history.alpha_NK.shape == (40, 2)
    np.testing.assert_allclose(run.mix_history.alpha_NK.sum(1), 1.0)
    steps, values = run.validation["eval_excess/a"]
    assert len(steps) == len(values) == 8  # of 40 lines every fourth from the tenth; training rows are empty here


def test_missing_and_infinite_numbers_are_nan(write_run):
    path = write_run("ama_s", 0, {"a": 0.1, "b": 0.2}, history=False, metrics=False)
    scores = json.loads((path / "eval.json").read_text())
    scores["worst"]["excess"]["value"] = float("inf")
    scores["mean"]["loss"] = None
    scores["tasks"]["a"]["gap"] = None
    del scores["worst"]["gap"]
    (path / "eval.json").write_text(json.dumps(scores))
    run = load_run(path)
    assert np.isnan(run.score("worst_excess"))
    assert np.isnan(run.score("mean_loss"))
    assert run.score("worst_gap") == pytest.approx(0.15)  # from the tasks that have one
    assert (run.mix_history, run.validation) == (None, {})


@pytest.mark.parametrize(
    ("mixer", "target", "scores", "method"),
    [
        ("uniform", None, {}, "static"),
        ("ama_s", [0.7, 0.3], {}, "adaptive"),
        ("mine", [0.5, 0.5], {"static": True}, "static"),
        ("schedule", [0.7, 0.3], {"static": True}, "static"),  # moves by a plan, whatever the tasks do
        ("merge_ties", None, {"static": False}, "merge"),
        # of older versions, without the key: whether the mixture moved
        ("uniform", [0.5, 0.5], {"static": None}, "static"),
        ("uniform", [0.7, 0.3], {"static": None}, "adaptive"),
        ("ama_r", [0.7, 0.3], {"static": None}, "adaptive"),
        ("ideal", [0.5, 0.5], {"static": None, "rounds": []}, "adaptive"),
        ("doremi", [0.5, 0.5], {"static": None, "proxy": {"folder": "proxy"}}, "adaptive"),
        # the last of several trainings may have had a mixture that stayed
        ("doremi", [0.5, 0.5], {"static": True, "proxy": {"folder": "proxy"}}, "adaptive"),
    ],
)
def test_the_kind_of_method_is_read_and_not_known_by_name(mixer, target, scores, method, write_run):
    assert load_run(write_run(mixer, 0, {"a": 0.1, "b": 0.2}, target=target, scores=scores)).method == method


def test_without_a_history_an_older_run_may_have_moved(write_run):
    assert load_run(write_run("uniform", 0, history=False, scores={"static": None})).method == "adaptive"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("eval.json", {"tasks": ["a"]}, r"eval\.json`: `tasks` holds list; an object"),
        ("eval.json", {"tasks": {"a": None}}, r"eval\.json`: task `a` holds NoneType"),
        ("eval.json", {"mean": 1.0}, r"eval\.json`: `mean` holds float; an object"),
        ("eval.json", {"seed": "x"}, r"has seed 'x'; a whole number is wanted"),
        ("mixture.json", {"tasks": "ab"}, r"mixture\.json`: `tasks` holds str; a list"),
        ("mixture.json", {"tasks": ["a", []]}, r"mixture\.json`: `tasks` is \['a', \[\]\]; a list of names"),
    ],
)
def test_values_of_another_shape_are_named(name, content, message, write_run):
    path = write_run("ama_s", 0, {"a": 0.1, "b": 0.2})
    (path / name).write_text(json.dumps(content))
    with pytest.raises(MixalignError, match=message):
        load_run(path)

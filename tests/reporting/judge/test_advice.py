"""The verdict that a page begins with: what to take, whether that is proven, and why."""

import math

import pytest

from mixalign.reporting.judge.advice import advise, start_loss
from mixalign.reporting.judge.comparison import compare
from tests.reporting.made_up import COSTS, find


@pytest.fixture
def advice(write_scores):
    def of(**worst):
        runs = write_scores(**worst)
        return advise(compare(runs), runs)

    return of


NOISE = (0.0, 0.01, -0.01, 0.005, -0.005)


def test_proven(advice):
    one = advice(uniform=[0.3 + e for e in NOISE], ama_s=[0.1 - e for e in NOISE], odm=[0.31] * 5)
    assert (one.label, one.proof) == ("ama_s", "proven")
    assert "Better than uniform, the best static mixture, on worst excess: -0.200 nats [" in one.sentences[0]
    assert "over 5 shared seeds" in one.sentences[0]
    assert one.score.startswith("worst excess 0.100+-0.004 nats, on b")


@pytest.mark.parametrize(
    ("worst", "label", "words"),
    [
        ({"uniform": [0.3, 0.1, 0.2], "ama_s": [0.1, 0.25, 0.2]}, "ama_s", "do not tell the two apart"),
        ({"uniform": [0.3], "ama_s": [0.1]}, "ama_s", "at least 3 shared seeds are needed to tell"),
        ({"uniform": [0.3, 0.3], "ama_s": [0.1, 0.1]}, "ama_s", "-0.200 nats [-0.200, -0.200] over 2 shared seeds; at"),
        ({"uniform": [0.1] * 3, "ama_s": [0.2] * 3}, "uniform", "the one other method is not lower"),
        ({"uniform": [0.1] * 3, "fixed": [0.2] * 3}, "uniform", "no method that decides it"),
        ({"odm": [0.1] * 3, "ama_s": [0.2] * 3}, "odm", "No static mixture is among these runs"),
    ],
)
def test_not_proven(worst, label, words, advice):
    one = advice(**worst)
    assert (one.label, one.proof) == (label, "not proven")
    assert words in one.sentences[0]


def test_no_seed_in_common(write_run, tmp_path):
    write_run("uniform", 0, {"a": 0.3, "b": 0.2})
    write_run("ama_s", 1, {"a": 0.1, "b": 0.2})
    runs = find(tmp_path)
    assert "It shares no seed with uniform" in advise(compare(runs), runs).sentences[0]


def test_one_label_is_compared_with_nothing(advice):
    one = advice(ama_s=[0.1])
    assert one.proof == ""
    assert not any("static" in text for text in one.sentences)


def test_what_it_gave_and_cost_and_where_it_lies(write_run, tmp_path):
    tasks = {"a": 0.1, "b": 0.2}
    write_run("uniform", 0, {"a": 0.2, "b": 0.3}, costs=COSTS["plain"][0], settings={"steps": 100})
    path = write_run("ama_s", 0, tasks, target=[0.2, 0.8], costs=COSTS["excess"][0], settings={"steps": 100})
    (path / "model").mkdir()
    runs = find(tmp_path)
    one = advise(compare(runs), runs)
    text = " ".join(one.sentences)
    assert "a 46% to 20%, b 54% to 80%" in text
    assert "It cost 600 optimizer steps beyond plain training (specialists); 40 CPU s, specialists included, " in text
    assert "included, 4.00 times uniform." in text
    assert one.models == [str(path / "model")]


@pytest.mark.parametrize(
    ("objective", "row", "start"),
    [
        ({"name": "dpo", "loss": "sigmoid"}, {}, math.log(2)),
        ({"name": "dpo", "loss": "sigmoid", "nll_weight": 0.1}, {}, math.nan),
        ({"name": "dpo", "loss": "ipo"}, {}, math.nan),
        ({"name": "dpo", "loss": "sigmoid"}, {"start_loss": 0.7}, 0.7),
        ({"name": "sft"}, {"start_loss": 2.5}, 2.5),
        ({"name": "sft"}, {}, math.nan),
    ],
)
def test_where_training_started(objective, row, start, write_run, tmp_path):
    scores = {"tasks": {"a": {"loss": 0.5, **row}}}
    write_run("ama_s", 0, {"a": 0.1}, objective=objective["name"], settings={"objective": objective}, scores=scores)
    (run,) = find(tmp_path)
    assert start_loss(run, "a") == pytest.approx(start, nan_ok=True)

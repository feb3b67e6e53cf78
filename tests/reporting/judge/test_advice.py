"""The verdict that a page begins with: what to take, whether that is proven, and why."""

import json
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
    assert "It cost 600 optimizer steps beyond plain training (specialists); 80 s by the clock, 40 CPU s, " in text
    assert "CPU s, specialists included, 4.00 times uniform." in text
    assert one.models == [str(path / "model")]


@pytest.mark.parametrize(
    ("reads", "says"),
    [
        (["excess_K", "excess_iw_K"], "excess of the training rows, from the first to the last quarter"),
        (["loss_K"], "loss of the training rows, from the first to the last quarter of the steps: a 0.250 to 0.250, b"),
        (["gradient_KK", "loss_K"], ""),  # and more than mix.jsonl has
        (["eval_excess_K"], ""),
        ([], ""),
        (None, ""),  # a run of an older version
    ],
)
def test_what_moved_the_mixture_is_said(reads, says, write_run, tmp_path):
    path = write_run("ama_s", 0, {"a": 0.1, "b": 0.2}, steps=8)
    lines = [
        {
            "step": step,
            "sample": [0.5 - step / 40, 0.5 + step / 40],
            "excess": [0.5 / step, None if step == 1 else 1 / step],  # b was not drawn at first
            "task_loss": [0.25, {1: 2.0, 2: 1.5}.get(step, 0.75)],
            "count": [4, 0 if step == 1 and reads != ["loss_K"] else 4],
        }
        for step in range(1, 9)
    ]
    (path / "mix.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mixture = json.loads((path / "mixture.json").read_text())
    (path / "mixture.json").write_text(json.dumps(mixture | ({} if reads is None else {"reads": reads})))
    runs = find(tmp_path)
    text = next(text for text in advise(compare(runs), runs).sentences if "Its mixture moved" in text)
    assert says in text
    assert ("Its rule reads" in text) == bool(says)
    if "excess" in says:  # b: step 2 alone, and the mean of steps 7 and 8
        assert text.endswith("quarter of the steps: a 0.375 to 0.067, b 0.500 to 0.134 nats.")


def test_a_task_that_ended_better_than_its_specialist_is_named_where_all_seeds_show_it(write_run, tmp_path):
    row = {"rows": 20, "loss": 1.6, "specialist_loss": 1.7, "gap": -0.1, "excess": 0.0, "start_loss": 2.2}
    even = row | {"loss": 1.7, "gap": 0.0, "excess": 0.02}
    for seed, other in enumerate((row, even)):
        write_run("ama_s", seed, {"a": 0.1, "b": 0.2}, scores={"tasks": {"a": row, "b": other}})
    runs = find(tmp_path)
    (said,) = (text for text in advise(compare(runs), runs).sentences if "specialist" in text)
    assert said.startswith("`a` ended better than its specialist, so by excess it hardly asks for more.")


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

"""Run folders are found, read and labelled; what cannot be read says where."""

import json
import os

import numpy as np
import pytest

from mixalign.errors import MixalignError
from mixalign.reporting.runs import find_runs, load_run


def _labels(runs):
    return sorted({run.label for run in runs if not run.skipped})


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


def test_alpha_is_the_loss_weight_where_there_is_one(write_run):
    path = write_run("ama_s", 0, {"a": 0.1, "b": 0.2}, steps=2)
    lines = [
        {
            "step": 1,
            "sample": [0.25, 0.75],
            "loss": None,
            "excess": None,
            "task_loss": [1, None],
            "count": [4, 0],
        },
        {"step": 2, "sample": [0.5, 0.5], "loss": [0.4, 1.6], "excess": [0.1, None], "task_loss": [1, 2]},
    ]
    (path / "mix.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    history = load_run(path).mix_history
    np.testing.assert_allclose(history.alpha_NK, [[0.25, 0.75], [0.2, 0.8]])
    np.testing.assert_array_equal(history.excess_NK, [[np.nan, np.nan], [0.1, np.nan]])
    np.testing.assert_array_equal(history.count_NK, [[4, 0], [np.nan, np.nan]])


def test_sweeps_are_searched_and_runs_are_not(write_run, tmp_path):
    outer = write_run("uniform", 0, folder="sweep/a/0")
    write_run("uniform", 9, folder="sweep/a/0/inner")
    write_run("uniform", 1, folder="sweep/a/1")
    assert [run.seed for run in find_runs([tmp_path / "sweep", outer])] == [0, 1]


@pytest.mark.parametrize("paths", [[], ["empty"]])
def test_no_run_says_where_it_looked(paths, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MixalignError, match=r"empty.*config\.yaml and eval\.json"):
        find_runs([tmp_path / path for path in paths])


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MixalignError, match="nowhere` is no folder"):
        find_runs([tmp_path / "nowhere"])


def test_labels_show_what_differs_within_one_mixer(write_run, tmp_path):
    for seed in (0, 1):
        own = {"reference": f"runs/reference_{seed}/model", "data": {"seed": seed}}
        for m in (0.15, 0.3):
            write_run("ideal", seed, folder=f"ideal_{m}_{seed}", mixer_settings={"m": m}, settings=own)
        write_run("ama_s", seed, mixer_settings={"eta": 0.1}, settings={"paths": {"root": f"r{seed}"}, **own})
    assert _labels(find_runs([tmp_path])) == ["ama_s", "ideal m=0.15", "ideal m=0.3"]


def test_labels_name_an_objective_once(write_run, tmp_path):
    write_run("uniform", 0, folder="a", objective="dpo")
    write_run("uniform", 0, folder="b", settings={"objective": {"name": "sft"}}, objective="sft")
    write_run("uniform", 0, folder="c", settings={"objective": {"name": "sft"}, "steps": 80}, objective="sft")
    labels = [
        "uniform steps=40 objective=dpo",
        "uniform steps=40 objective=sft",
        "uniform steps=80 objective=sft",
    ]
    assert sorted(" ".join(sorted(label.split())) for label in _labels(find_runs([tmp_path]))) == sorted(
        " ".join(sorted(label.split())) for label in labels
    )


def test_unfinished_runs_neither_label_nor_compare(write_run, tmp_path):
    write_run("ama_s", 0)
    write_run("ama_s", 1, finished=False, settings={"steps": 7})
    runs = find_runs([tmp_path])
    assert [run.skipped for run in runs] == ["", "no eval.json: the run is unfinished or was not evaluated"]
    assert runs[0].label == "ama_s"


def test_the_newest_of_two_equal_runs_is_kept(write_run, tmp_path):
    old, new = (write_run("ama_s", 0, folder=name) for name in ("b_old", "a_new"))
    os.utime(old / "eval.json", (1, 1))
    os.utime(new / "eval.json", (2, 2))
    by_name = {run.path.name: run.skipped for run in find_runs([tmp_path])}
    assert by_name == {"a_new": "", "b_old": "seed 0 of ama_s was run again: the newer a_new is used"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("eval.json", '{"tasks":\n{,}}', r"eval.json`, line 2, is not valid JSON"),
        ("mix.jsonl", '{"step": 1, "sample": [1, 0]}\nnonsense\n', r"mix.jsonl`, line 2, is not valid JSON"),
        ("mix.jsonl", '{"step": 1, "sample": [1]}\n', r"line 1: `sample` has 1 numbers; the run has 2 tasks"),
        ("config.yaml", "a: [1\nb: 2", r"config.yaml`, line 2 is not valid YAML"),
        ("config.yaml", "- 1", r"holds list; a mapping"),
        ("mixture.json", "[]", r"mixture.json`, line 1, holds list; an object"),
    ],
)
def test_damaged_files_are_named_and_skipped(name, text, message, write_run, tmp_path):
    write_run("uniform", 0)
    path = write_run("ama_s", 0, {"a": 0.1, "b": 0.2})
    (path / name).write_text(text)
    with pytest.raises(MixalignError, match=message):
        load_run(path)
    skipped = [run.skipped for run in find_runs([tmp_path]) if run.skipped]
    assert len(skipped) == 1
    assert name in skipped[0]


def test_half_a_last_line_is_left_out(write_run):
    path = write_run("ama_s", 0, {"a": 0.1, "b": 0.2}, steps=5)
    text = (path / "mix.jsonl").read_text()
    (path / "mix.jsonl").write_text(text + '{"step": 6, "sam')
    assert len(load_run(path).mix_history.step_N) == 5


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

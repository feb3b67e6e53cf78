"""Runs are found, labelled by what differs within one mixer, and kept once a seed."""

import json
import os

import pytest

from mixalign.errors import MixalignError
from tests.reporting.made_up import find


def _labels(runs):
    return sorted({run.label for run in runs if not run.skipped})


def test_sweeps_are_searched_and_runs_are_not(write_run, tmp_path):
    outer = write_run("uniform", 0, folder="sweep/a/0")
    write_run("uniform", 9, folder="sweep/a/0/inner")
    write_run("uniform", 1, folder="sweep/a/1")
    assert [run.seed for run in find(tmp_path / "sweep", outer)] == [0, 1]


@pytest.mark.parametrize("paths", [[], ["empty"]])
def test_no_run_says_where_it_looked(paths, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MixalignError, match=r"empty.*config\.yaml and eval\.json"):
        find(*(tmp_path / path for path in paths))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MixalignError, match="nowhere` is no folder"):
        find(tmp_path / "nowhere")


def test_labels_show_what_differs_within_one_mixer(write_run, tmp_path):
    for seed in (0, 1):
        own = {"reference": f"runs/reference_{seed}/model", "data": {"seed": seed}}
        for m in (0.15, 0.3):
            write_run("ideal", seed, folder=f"ideal_{m}_{seed}", mixer_settings={"m": m}, settings=own)
        write_run("ama_s", seed, mixer_settings={"eta": 0.1}, settings={"paths": {"root": f"r{seed}"}, **own})
    assert _labels(find(tmp_path)) == ["ama_s", "ideal m=0.15", "ideal m=0.3"]


def test_labels_tell_runs_of_a_group_apart_and_no_others(write_run, tmp_path):
    write_run("uniform", 0, folder="a", objective="dpo")
    write_run("uniform", 0, folder="b", settings={"objective": {"name": "sft"}}, objective="sft")
    write_run("uniform", 0, folder="c", settings={"objective": {"name": "sft"}, "steps": 80}, objective="sft")
    assert _labels(find(tmp_path)) == ["uniform", "uniform steps=40", "uniform steps=80"]


def test_labels_name_the_group_of_settings_once(write_run, tmp_path):
    lora, full = {"lora": {"name": "lora", "r": 8}}, {"lora": {"name": "full", "r": 0}}
    write_run("uniform", 0, folder="a", settings=lora)
    write_run("uniform", 0, folder="b", settings=full)
    assert _labels(find(tmp_path)) == ["uniform lora=full", "uniform lora=lora"]


@pytest.mark.parametrize(
    ("commands", "label"),
    [
        ((["optimizer.lr=1"], ["optimizer.lr=2"]), "uniform optimizer.lr=1"),
        ((["seed=0"], ["optimizer.lr=2"]), "uniform optimizer.lr=1"),
        ((["optimizer.lr=1", "experiment=a"], ["optimizer.lr=2"]), "uniform optimizer.lr=1 specialists.lr=1"),
        ((["optimizer.lr=1"], None), "uniform optimizer.lr=1 specialists.lr=1"),  # of an older version
        (
            (["optimizer.lr=1", "specialists.lr=1"], ["optimizer.lr=2", "specialists.lr=2"]),
            "uniform optimizer.lr=1 specialists.lr=1",
        ),
    ],
)
def test_settings_that_follow_from_given_ones_are_no_part_of_a_label(write_run, tmp_path, commands, label):
    for lr, command in enumerate(commands, 1):
        follow = {"optimizer": {"lr": lr}, "specialists": {"lr": lr}}
        run = write_run("uniform", 0, folder=f"lr_{lr}", settings=follow)
        if command is not None:
            (run / "identity.json").write_text(json.dumps({"origin": {"overrides": command}}))
    assert label in _labels(find(tmp_path))


def test_unfinished_runs_neither_label_nor_compare(write_run, tmp_path):
    write_run("ama_s", 0)
    write_run("ama_s", 1, finished=False, settings={"steps": 7})
    runs = find(tmp_path)
    assert [run.skipped for run in runs] == ["", "no eval.json: the run is unfinished or was not evaluated"]
    assert runs[0].label == "ama_s"


def test_the_newest_of_two_equal_runs_is_kept(write_run, tmp_path):
    old, new = (write_run("ama_s", 0, folder=name) for name in ("b_old", "a_new"))
    os.utime(old / "eval.json", (1, 1))
    os.utime(new / "eval.json", (2, 2))
    by_name = {run.path.name: run.skipped for run in find(tmp_path)}
    assert by_name == {"a_new": "", "b_old": "seed 0 of ama_s was run again: the newer a_new is used"}

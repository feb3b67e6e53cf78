"""Runs are compared within a group: one objective, the same tasks, one model, the same rows."""

import json

import pytest

from mixalign.errors import MixalignError
from mixalign.reporting.show.text import report_text
from tests.reporting.made_up import find

TINY, LARGE = {"model": {"path": "tiny"}}, {"model": {"path": "large"}}


def _groups(runs):
    return {run.path.name: run.group for run in runs}


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ({}, {"settings": {"steps": 80}}, False),
        ({}, {"objective": "sft"}, True),
        ({}, {"excess": {"a": 0.1, "c": 0.2}}, True),
        ({"settings": TINY}, {"settings": LARGE}, True),
        ({"settings": {"model": {"hidden_size": 8}}}, {"settings": {"model": {"hidden_size": 16}}}, True),
        ({"settings": {"data": {"rows": 8}}}, {"settings": {"data": {"rows": 16}}}, False),
        ({"settings": {"data": {"root": "x"}}}, {"settings": {"data": {"root": "y"}}}, True),
        ({"settings": {"lora": {"r": 8}}}, {"settings": {"lora": {"r": 16}}}, False),
    ],
)
def test_what_sets_runs_apart(one, other, apart, write_run, tmp_path):
    tasks = {"a": 0.1, "b": 0.2}
    write_run("uniform", 0, folder="one", **{"excess": tasks, **one})
    write_run("ama_s", 0, folder="other", **{"excess": tasks, **other})
    assert (len({*_groups(find(tmp_path)).values()}) == 2) == apart


def test_a_model_of_each_seed_is_one_group(write_run, tmp_path):
    for seed in (0, 1):
        for mixer in ("uniform", "ama_s"):
            write_run(mixer, seed, settings={"model": {"path": f"start/{seed}"}})
    assert len({*_groups(find(tmp_path)).values()}) == 1


def test_groups_are_named_by_what_tells_them_apart(write_run, tmp_path):
    tasks = {f"t{k}": 0.1 for k in range(8)}
    write_run("uniform", 0, tasks, folder="one", settings=TINY)
    write_run("uniform", 0, tasks, folder="other", settings=LARGE)
    first, second = _groups(find(tmp_path)).values()
    assert first == "DPO on t0, t1, t2, t3, t4, t5 and 2 more (model.path tiny)"
    assert second.endswith("(model.path large)")


def test_models_are_named_as_their_cards_name_them(write_run, tmp_path):
    for folder, settings in (("gguf", {"package": "llm_small", "_target_": "GGUF"}), ("hub", {"path": "org/large"})):
        path = write_run("uniform", 0, {"a": 0.1}, folder=folder, settings={"model": settings})
        origin = {"base_model": "org/small" if folder == "gguf" else "org/large"}
        (path / "identity.json").write_text(json.dumps({"origin": origin}))
    assert [*_groups(find(tmp_path)).values()] == ["DPO on a (model org/small)", "DPO on a (model org/large)"]


def test_the_same_mixer_and_seed_in_two_groups_are_both_kept(write_run, tmp_path):
    for folder, settings in (("one", TINY), ("other", LARGE)):
        write_run("uniform", 0, folder=folder, settings=settings)
    assert [(run.label, run.skipped) for run in find(tmp_path)] == [("uniform", ""), ("uniform", "")]


def test_the_text_has_a_part_a_group(write_run, tmp_path):
    write_run("uniform", 0, {"a": 0.1, "b": 0.2}, folder="one")
    write_run("ama_s", 0, {"c": 0.3, "d": 0.4}, folder="other")
    write_run("ama_s", 1, folder="third", finished=False)
    text = report_text(find(tmp_path), width=80)
    first, second = text.index("DPO on a, b"), text.index("DPO on c, d")
    assert first < text.index("uniform  ") < second < text.index("ama_s  ") < text.index("third: no eval.json")
    assert "do not compare" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_no_scores_are_said(write_run, tmp_path):
    write_run("ama_s", 1, finished=False)
    with pytest.raises(MixalignError, match="nothing to compare"):
        report_text(find(tmp_path))

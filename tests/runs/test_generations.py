"""What runs say of answers that their models generate: scores before and after, and the answers themselves."""

import json
import sys

import pytest

from mixalign.errors import MixalignError
from mixalign.runs.generations import scored_result
from mixalign.verbs import evaluate
from tests.tiny_runs import TASKS, train_from_overrides

GENERATE = ("eval.generate=3", "eval.max_new_tokens=4")
EXACT = tuple(f"data.tasks.{task}.scorer=exact" for task in TASKS)


def samples(folder, name="generations.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def generated_run(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "run"
    result = train_from_overrides(tiny("mixer=uniform", *GENERATE, *EXACT[:2]), str(folder))
    return folder, result


def test_results_have_scores_of_tasks_with_a_scorer(generated_run):
    folder, result = generated_run
    assert result == json.loads((folder / "eval.json").read_text())
    helpful, reverse, compare = (result["tasks"][task] for task in TASKS)
    assert {0 <= row[name] <= 1 for row in (helpful, reverse) for name in ("score", "score_before")} == {True}
    assert helpful["generated"] == 3
    assert not {"score", "generated"} & set(compare)
    assert result["mean"]["score"] == pytest.approx((helpful["score"] + reverse["score"]) / 2)
    how = {"generate": 3, "max_new_tokens": 4, "temperature": 0.0, "split": "test"}
    assert result["generation"] == how | {"scorers": dict.fromkeys(TASKS[:2], "exact")}


def test_every_prompt_has_the_answers_of_both_ends(generated_run):
    folder, result = generated_run
    rows = samples(folder)
    assert [row["task"] for row in rows] == [task for task in TASKS for _ in range(3)]
    assert len({(row["task"], row["prompt"]) for row in rows}) == 9
    for row in rows:
        assert row["prompt"][-1:] == "="
        assert row["answer"]
        assert len(row["after"]) <= 4
        if row["task"] != "compare":
            assert row["score"] == float(row["after"] == row["answer"])
    by_task = [row["score"] for row in rows if row["task"] == "helpful"]
    assert result["tasks"]["helpful"]["score"] == pytest.approx(sum(by_task) / 3)


@pytest.mark.long
def test_a_finished_run_is_measured_later_and_only_once(tiny, tmp_path, monkeypatch):
    plain = tiny("mixer=uniform", *EXACT)
    before = train_from_overrides(plain, str(tmp_path / "run"))
    weights = (tmp_path / "run/model/model.safetensors").read_bytes()
    assert "generation" not in before
    after = train_from_overrides([*plain, *GENERATE], str(tmp_path / "run"))
    assert after["generation"]["generate"] == 3
    assert {k: v for k, v in after["tasks"]["helpful"].items() if "score" not in k and k != "generated"} == (
        before["tasks"]["helpful"]
    )
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == weights

    def never(*args, **kwargs):
        raise AssertionError("generated again")

    monkeypatch.setattr("mixalign.runs.generations.generate_answers", never)
    assert train_from_overrides([*plain, *GENERATE], str(tmp_path / "run")) == after


@pytest.mark.long
def test_evaluate_gives_the_same_answers(generated_run):
    folder, result = generated_run
    evaluate.run(folder, "test")
    again = json.loads((folder / "eval_test.json").read_text())
    assert again["tasks"] == result["tasks"]
    assert samples(folder, "generations_test.jsonl") == samples(folder)
    evaluate.run(folder, "validation", generate=2)
    assert len(samples(folder, "generations_validation.jsonl")) == 6


@pytest.mark.long
def test_adapters_generate_as_the_saved_model_does(tiny, tmp_path):
    result = train_from_overrides(tiny("mixer=uniform", "lora=default", *GENERATE, *EXACT), str(tmp_path / "run"))
    evaluate.run(tmp_path / "run", "test")
    assert json.loads((tmp_path / "run/eval_test.json").read_text())["tasks"] == result["tasks"]


def test_answers_longer_than_the_model_are_refused_before_anything_is_trained(tiny, tmp_path, refuse):
    text = refuse(tiny("mixer=uniform", "eval.generate=2", "eval.max_new_tokens=3000"))
    assert "`eval.max_new_tokens` is 3000" in text
    assert "Lower it to" in text


@pytest.mark.long
def test_two_processes_generate_what_one_does(cli, tiny, tmp_path, generated_run):
    settings = [one for one in tiny("mixer=uniform", *GENERATE, *EXACT[:2]) if not one.startswith("cache_dir")]
    two = ("trainer=ddp", "trainer.devices=2")
    done = cli("train", *settings, *two, f"cache_dir={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    same = [{key: row[key] for key in ("task", "row", "prompt", "before")} for row in samples(tmp_path / "run")]
    assert same == [{key: row[key] for key in same[0]} for row in samples(generated_run[0])]


def longest(prompt, answer, given):
    return len(given) / BROKEN["by"]


BROKEN = {"by": 0}


@pytest.mark.long
def test_a_scorer_that_fails_costs_no_training(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXALIGN_TARGETS", "tests.runs.test_generations.*")
    monkeypatch.setitem(sys.modules, "tests.runs.test_generations", sys.modules[__name__])
    scorer = f"data.tasks.{TASKS[0]}.scorer=tests.runs.test_generations.longest"
    settings = tiny("mixer=uniform", *GENERATE, scorer)
    with pytest.raises(MixalignError, match=r"`data\.tasks\.helpful\.scorer` failed .* ZeroDivisionError.* Mend it "):
        train_from_overrides(settings, str(tmp_path / "run"))
    trained = (tmp_path / "run/model/model.safetensors").stat().st_mtime_ns
    monkeypatch.setitem(BROKEN, "by", 4)
    result = train_from_overrides(settings, str(tmp_path / "run"))
    assert 0 <= result["tasks"]["helpful"]["score"] <= 1
    assert (tmp_path / "run/model/model.safetensors").stat().st_mtime_ns == trained


@pytest.mark.long
def test_another_scorer_judges_the_answers_of_a_finished_run(tiny, tmp_path):
    """A scorer judges what a trained model answers: the run is the same one, and its scores are made again."""
    run, settings = tmp_path / "run", tiny("mixer=uniform", *GENERATE)
    plain = train_from_overrides(settings, str(run))
    trained = (run / "model/model.safetensors").stat().st_mtime_ns
    assert "score" not in plain["mean"]
    exact = train_from_overrides([*settings, *EXACT], str(run))
    assert exact["mean"]["score"] < 1
    same = [f"data.tasks.{task}.scorer={{regex: '^'}}" for task in TASKS]
    assert train_from_overrides([*settings, *same], str(run))["mean"]["score"] == 1
    assert (run / "model/model.safetensors").stat().st_mtime_ns == trained


def test_the_mean_is_over_tasks_and_the_worst_is_the_lowest():
    rows = [{"task": "a", "score_before": 0.0, "score": s} for s in (1.0, 0.0)]
    rows += [{"task": "b", "score_before": 1.0, "score": 1.0}]
    got = scored_result({"tasks": {"a": {}, "b": {}, "c": {}}, "mean": {}, "worst": {}}, rows)
    assert got["tasks"] == {
        "a": {"score_before": 0.0, "score": 0.5, "generated": 2},
        "b": {"score_before": 1.0, "score": 1.0, "generated": 1},
        "c": {},
    }
    assert got["mean"] == {"score_before": 0.5, "score": 0.75}
    assert got["worst"]["score"] == {"task": "a", "value": 0.5}

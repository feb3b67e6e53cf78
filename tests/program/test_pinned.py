"""`specialists.of`: runs whose settings differ are judged by one set of specialists, or excess is no measure."""

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml

from mixalign.config.compose import compose_config, compose_settings
from mixalign.config.sweep_specialists import changes_specialists
from mixalign.errors import MixalignError
from mixalign.frozen.cache import on_loan, score
from mixalign.frozen.policy import reference_policy
from mixalign.frozen.scored import scored
from mixalign.frozen.specialists import find_specialists, specialist_recipes
from mixalign.frozen.worse import warn_of_useless, worse_than_start
from mixalign.jobs.job import prepare
from mixalign.objectives.frozen_losses import frozen_losses
from mixalign.reporting.judge.same_specialists import different_specialists
from mixalign.verbs import specialists as specialists_verb
from mixalign.verbs import train as train_verb
from mixalign.verbs.train import swept_value
from tests.reporting.made_up import find
from tests.tiny_runs import TASKS


def read(path: Path):
    return json.loads(path.read_text())


def said(caplog) -> list[str]:
    """What specialists were trained."""
    return [text for text in caplog.messages if text.startswith("specialist ")]


OTHER = ("mixer=uniform", "optimizer.lr=1e-5", "batch_size=9", "specialists.steps=5", "lora=default", "lora.r=2")


def test_a_run_takes_the_specialists_of_another_whatever_its_own_settings(train, finished, caplog):
    caplog.set_level("INFO", logger="mixalign")
    run = train(f"specialists.of={finished}", *OTHER)
    assert said(caplog) == []
    theirs, own = read(finished / "eval.json"), read(run / "eval.json")
    assert own["excess_over"] == theirs["excess_over"]
    assert read(run / "specialists.json") == read(finished / "specialists.json")
    for task in TASKS:
        assert own["tasks"][task]["specialist_loss"] == pytest.approx(
            theirs["tasks"][task]["specialist_loss"], abs=1e-6
        )
    then, now = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (finished, run))
    for key in ("lr", "batch_size", "steps", "seed"):  # config.yaml says what they were trained with
        assert now["specialists"][key] == then["specialists"][key]
    assert now["optimizer"]["lr"] == 1e-5


def test_such_a_run_goes_on_and_is_evaluated_without_the_other(train, finished, tmp_path, in_process):
    """What it found is in its own config.yaml."""
    other = shutil.copytree(finished, tmp_path / "other")
    run = train(f"specialists.of={other}", *OTHER)
    shutil.rmtree(other)
    code, _, err = in_process("evaluate", run)
    assert code == 0, err
    assert read(run / "eval_test.json")["excess_over"] == read(finished / "eval.json")["excess_over"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("objective.beta=0.2", "objective.beta: got 0.5, wanted 0.2"),
        ("reference.sft_steps=2", "the reference policy of `helpful` is another"),
        ("data.tasks.helpful.rows=39", "the training rows of `helpful` is another"),
    ],
)
def test_specialists_of_other_measures_are_refused_by_name(tiny, refuse, finished, override, named):
    message = refuse(tiny(f"specialists.of={finished}", override))
    assert "do not compare with this run's" in message
    assert named in message


def test_a_folder_of_specialists_has_their_settings(tiny, train, finished, tmp_path, caplog):
    folder = tmp_path / "kept"
    for task, model in find_specialists(*reference_policy(prepare(compose_settings(tiny("mixer=ama_s"))))).items():
        shutil.copytree(model.place, folder / task)
    caplog.set_level("INFO", logger="mixalign")
    run = train(f"specialists.of={folder}", *OTHER)
    assert said(caplog) == []
    assert read(run / "eval.json")["excess_over"] == read(finished / "eval.json")["excess_over"]
    recipe = read(folder / "compare" / "recipe.json")
    recipe["fit"]["lr"] = 7.0
    (folder / "compare" / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(MixalignError, match=r"`compare` and `helpful` were not trained alike \(fit\.lr: got 7\.0"):
        compose_settings(tiny(f"specialists.of={folder}"))


def test_what_holds_no_specialists_is_refused_by_name(tiny, refuse, train, tmp_path):
    assert "is neither a run folder (config.yaml) nor a folder" in refuse(tiny(f"specialists.of={tmp_path / 'none'}"))
    run = train("mixer=uniform", "specialists.train=never", "objective.beta=0.7")
    assert "that run has no specialists (no specialists.json)" in refuse(tiny(f"specialists.of={run}"))


@pytest.mark.long
def test_a_sweep_over_the_rate_has_the_specialists_of_its_first_run(tiny, in_process, tmp_path):
    """Without that, the run that learned nothing would rank first; see the report's tests."""
    swept = ("optimizer.lr=1e-3,1e-7", "mixer=uniform", "specialists.train=always", "seed=0")
    code, _, err = in_process("train", "-m", *tiny(*swept, "specialists.of=first"), f"run_dir={tmp_path / 'one'}")
    assert code == 0, err
    runs = find(tmp_path / "one")
    assert len(runs) == 2
    assert different_specialists(runs) == []
    assert {run.config["specialists"]["lr"] for run in runs} == {1e-3}
    code, _, err = in_process("train", "-m", *tiny(*swept), f"run_dir={tmp_path / 'own'}")
    assert code == 0, err
    assert err.count("so that excess does not compare between the runs of this sweep") == 1
    assert different_specialists(find(tmp_path / "own")) == ["specialists.lr (0.001, 1e-07)"]


def test_runs_of_a_sweep_do_not_wait_for_a_first_run_that_was_refused(tiny, in_process, tmp_path, monkeypatch):
    monkeypatch.setattr("mixalign.config.sweep_specialists.time.sleep", lambda _: pytest.fail("it waits"))
    swept = ("optimizer.lr=-1,1e-3", "mixer=uniform", "specialists.of=first")
    code, _, err = in_process("train", "-m", *tiny(*swept), f"run_dir={tmp_path / 'sweep'}")
    assert code == 1
    assert "2 of 2 runs failed" in err
    assert "the first run of the sweep has not begun, or was refused" in err


def test_a_run_does_not_go_on_with_other_specialists(tiny, refuse, train):
    run = train("mixer=ama_s")
    recipes = read(run / "specialists.json")
    recipes["reverse"]["fit"]["lr"] = 7.0
    (run / "specialists.json").write_text(json.dumps(recipes))
    (run / "eval.json").unlink()
    message = refuse(tiny("mixer=ama_s"), run)
    assert "are others than when it began (reverse.fit.lr: got 7.0" in message


@pytest.mark.parametrize(
    ("overrides", "keys", "found"),
    [
        ((), ["optimizer.lr", "mixer.eta"], ["optimizer.lr"]),
        (("specialists.lr=1e-3",), ["optimizer.lr"], []),
        ((), ["optimizer.weight_decay", "steps"], ["optimizer.weight_decay"]),
        ((), ["batch_size"], ["batch_size"]),
        (("specialists.batch_size=6",), ["batch_size"], []),
        ((), ["lora", "specialists.train"], ["lora"]),
        ((), ["seed", "mixer", "mixer.c"], []),
        (("experiment=compare_dpo",), ["seed", "mixer"], ["seed"]),
        ((), ["trainer.devices", "trainer.precision", "data.workers", "reference.mode"], ["trainer.precision"]),
        (("specialists.of=first",), ["optimizer.lr", "specialists.steps"], []),
    ],
)
def test_the_settings_of_a_sweep_that_change_specialists(overrides, keys, found):
    assert changes_specialists(compose_config(overrides), keys) == found


def test_the_value_of_a_sweep_is_never_over_specialists_that_move():
    result = {"worst": {"excess": {"task": "a", "value": 0.0007}, "loss": {"task": "b", "value": 0.69}}}
    assert swept_value(result, over_specialists=True) == 0.0007
    assert swept_value(result, over_specialists=False) == 0.69


@pytest.mark.parametrize("objective", ["dpo", "sft"])
def test_specialists_that_are_worse_than_the_start_are_named_for_every_task(tiny, caplog, objective):
    """On validation rows: by DPO the start has log 2, by SFT it is scored."""
    job, reference = scored(prepare(compose_settings(tiny(f"objective={objective}"))))
    tables = dict(zip(TASKS, job.data["validation"], strict=True))
    with on_loan(reference, job, list(tables.values())) as loan:
        logp = {task: score(job, reference, loan, table, task).align(table) for task, table in tables.items()}
    for number, (task, table) in enumerate(tables.items()):
        start_N = frozen_losses(job.objective, table, logp[task], number)
        assert objective == "sft" or start_N == pytest.approx(math.log(2), abs=1e-6)
        table.attach("specialist_loss", start_N + (0.1 if task != "reverse" else -0.1))
    found = worse_than_start(job, reference)
    assert [*found] == ["helpful", "compare"]
    assert all(loss == pytest.approx(start + 0.1, abs=1e-5) for loss, start in found.values())
    warn_of_useless(job, reference)
    assert "`helpful` (loss " in caplog.text
    assert "`compare` (loss " in caplog.text
    assert "`reverse`" not in caplog.text


def test_a_run_and_the_specialists_verb_look_at_them(tiny, train, monkeypatch):
    looked = []
    for verb in (train_verb, specialists_verb):
        monkeypatch.setattr(verb, "warn_of_useless", lambda job, reference: looked.append(job.tasks))
    train("mixer=ama_s")
    specialists_verb.run(compose_settings(tiny()))
    assert looked == [list(TASKS)] * 2


def test_recipes_of_runs_without_new_settings_are_those_of_before(tiny):
    """What is in a cache is found again."""
    recipes = specialist_recipes(*reference_policy(prepare(compose_settings(tiny()))))
    keys = {"start", "rows", "optimizer", "lora", "precision", "seed", "stage", "task", "objective", "fit"}
    assert {frozenset(recipe) for recipe in recipes.values()} == {frozenset(keys)}

"""A run's folder is used from elsewhere, and elsewhere."""

import json
import os
import shutil

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from mixalign.merging.methods import Merge
from mixalign.merging.runs import run as merge
from mixalign.models.tiny import TinyLlama, byte_tokenizer
from mixalign.runs.portable import export_base, where_it_began
from mixalign.verbs.evaluate import run as evaluate
from tests.tiny_runs import QUIET, SHORT, snapshot, train_from_overrides


def read(path):
    return json.loads(path.read_text())


@pytest.mark.long
def test_an_adapter_run_is_evaluated_from_everywhere_and_loads_without_its_cache(tiny, tmp_path, monkeypatch, caplog):
    from peft import PeftModel

    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    monkeypatch.chdir(home)
    train_from_overrides(tiny("lora=default", "lora.r=2", "cache_dir=near"), "run")
    made = {path for path in (home / "near").rglob("*") if path.is_file()}
    monkeypatch.chdir(away)
    evaluate(home / "run", "test")
    assert read(home / "run" / "eval_test.json")["tasks"] == read(home / "run" / "eval.json")["tasks"]
    assert made == {path for path in (home / "near").rglob("*") if path.is_file()}
    assert not any(away.iterdir())

    merge([home / "run"], Merge("linear"), out=away / "here")
    shutil.move(home / "run", away / "moved")
    shutil.rmtree(home)
    merge([away / "moved"], Merge("linear"), out=away / "there")
    names = [away / name / "model.safetensors" for name in ("here", "there")]
    assert names[0].read_bytes() == names[1].read_bytes()
    base = AutoModelForCausalLM.from_pretrained(away / "moved" / "base")
    policy = PeftModel.from_pretrained(base, away / "moved" / "model").merge_and_unload().state_dict()
    merged = AutoModelForCausalLM.from_pretrained(away / "there").state_dict()
    assert all(torch.allclose(policy[name], weight, atol=1e-6) for name, weight in merged.items())

    evaluate(away / "moved", "test")
    assert "Excess is left out: the run has specialists, but not all of them are in" in caplog.text
    found, wanted = (read(away / "moved" / f"{name}.json")["tasks"] for name in ("eval_test", "eval"))
    assert {task: row["loss"] for task, row in found.items()} == {task: row["loss"] for task, row in wanted.items()}


def test_a_base_of_ones_own_stays_where_it_is(tmp_path):
    for place in ("own", "cache"):
        (tmp_path / place / "base").mkdir(parents=True)
        (tmp_path / "run" / "model").mkdir(parents=True, exist_ok=True)
        config = {"base_model_name_or_path": str(tmp_path / place / "base")}
        (tmp_path / "run" / "model" / "adapter_config.json").write_text(json.dumps(config))
        export_base(tmp_path / "run", tmp_path / "cache")
        assert (tmp_path / "run" / "base").exists() == (place == "cache")


@pytest.mark.parametrize("began", ["there", "gone", None])
def test_paths_begin_where_the_run_began_if_that_is_there(tmp_path, monkeypatch, began):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    if began:
        known = {"rows": {}, "base": "", "chat_template": "", "versions": {}, "started_in": str(tmp_path / began)}
        (tmp_path / "identity.json").write_text(json.dumps(known))
    with where_it_began(tmp_path) as folder:
        assert folder == tmp_path
        assert folder.cwd() == (tmp_path / "there" if began == "there" else tmp_path)
    assert folder.cwd() == tmp_path


NEAR = ["model=pretrained", "model.path=start", "cache_dir=near", "data=local", "specialists.dir=special"]


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    """A finished run of which every path is relative to the folder where it was started."""
    home = tmp_path_factory.mktemp("near")
    TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32).build().save_pretrained(home / "start")
    byte_tokenizer().save_pretrained(home / "start")
    for task in "ab":
        rows = [{"prompt": f"{n}", "chosen": f"{task} {n}", "rejected": f"{n}"} for n in range(24)]
        (home / f"{task}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        data = [f"data.tasks.{task}.path={task}.jsonl" for task in "ab"]
        train_from_overrides([*SHORT, *QUIET, *NEAR, *data, "reference.sft_steps=3"], "run")
    return home


@pytest.fixture
def away(near, tmp_path, monkeypatch):
    """Another working folder, and what a run started there takes to read the same rows and model."""
    monkeypatch.chdir(tmp_path)
    data = [f"data.tasks.{task}.path={near / task}.jsonl" for task in "ab"]
    return [*SHORT, *QUIET, *data, "data=local", "model=pretrained", f"model.path={near / 'start'}", "cache_dir=cache"]


VERBS = {
    "evaluate": (["evaluate", "RUN", "--split", "validation"], set()),
    "merge of specialists": (["merge", "--specialists", "RUN", "--out", "out"], {"out"}),
    "search of weights": (["merge", "start", "--search", "RUN", "--trials", "1", "--out", "out"], {"out"}),
    "report": (["report", "RUN", "--out", "page.html"], {"page.html"}),
    "other run's specialists": (["train", "specialists.of=RUN", "run_dir=run", "AWAY"], {"run", "cache"}),
}


@pytest.mark.long
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_reads_a_run_from_where_it_began_and_its_own_paths_from_here(verb, near, away, tmp_path, in_process):
    arguments, made = VERBS[verb]
    (tmp_path / "start").symlink_to(near / "start")  # a model of one's own, named relatively
    before = snapshot(near / "near", near / "special", near / "start")
    run = os.path.relpath(near / "run")
    given = [text.replace("RUN", run) for text in arguments]
    code, _, said = in_process(*(more for text in given for more in (away if text == "AWAY" else [text])))
    assert code == 0, said
    assert {path.name for path in tmp_path.iterdir()} - {"start"} == made
    assert snapshot(near / "near", near / "special", near / "start").items() >= before.items()
    assert not (tmp_path / "cache" / "specialists").exists(), "none is trained again"
    assert "Excess is left out" not in said


@pytest.mark.long
def test_a_reference_policy_that_is_gone_is_not_trained_again(near, tmp_path, in_process):
    """Of a run that was moved without its cache; by a command of its own it is made, and then serves."""
    run = shutil.copytree(near / "run", tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"cache_dir": str(tmp_path / "cache")}))
    for verb in (["evaluate", run, "--split", "validation"], ["merge", "--specialists", run]):
        code, _, said = in_process(*verb)
        assert code == 1
        assert f"The reference policy of {run} is missing: {tmp_path / 'cache' / 'reference'}" in said
        assert not (tmp_path / "cache" / "reference").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(near)
        code, _, said = in_process("score", "--config-dir", run, "--config-name", "config")
        assert code == 0, said
    evaluate(run, "validation")
    found, wanted = (read(run / f"{name}.json")["tasks"] for name in ("eval_validation", "eval"))
    assert found == wanted

"""A run's folder is used from elsewhere, and elsewhere."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from mixalign.merging.methods import Merge
from mixalign.merging.runs import run as merge
from mixalign.runs.portable import export_base, where_it_began
from mixalign.verbs.evaluate import run as evaluate
from tests.tiny_runs import train_from_overrides


def read(path):
    return json.loads(path.read_text())


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
        (tmp_path / "identity.json").write_text(json.dumps({"started_in": str(tmp_path / began)}))
    with where_it_began(tmp_path) as folder:
        assert folder == tmp_path
        assert folder.cwd() == (tmp_path / "there" if began == "there" else tmp_path)
    assert folder.cwd() == tmp_path

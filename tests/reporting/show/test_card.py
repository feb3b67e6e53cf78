"""The model card of a run: metadata that the hub takes, the run's numbers, no place on this machine."""

import json
import os
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from mixalign import __version__
from mixalign.reporting.read.runs import load_run
from mixalign.reporting.show.card import Shown, filled_in, leave_card, write_card
from mixalign.reporting.show.card_text import command, training, without_places
from tests.tiny_runs import QUIET, train_from_overrides


def card_of(run: Path) -> str:
    return (run / "model" / "README.md").read_text(encoding="utf-8")


def test_a_run_leaves_a_card_with_its_numbers(finished):
    text, data = card_of(finished), ModelCard.load(finished / "model" / "README.md").data.to_dict()
    assert data["tags"] == ["mixalign", "dpo", "ama_s"]
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    assert not {"license", "base_model", "datasets"} & {*data}, "nobody knows them"
    assert "add `license:`" in text
    assert (finished / "model" / "mixture.png").read_bytes().startswith(b"\x89PNG")
    assert (finished / "model" / "mixture.png").stat().st_size < 40_000
    assert "![The share of every task in the mixture, over the steps](mixture.png)" in text
    results = json.loads((finished / "eval.json").read_text())
    rows = json.loads((finished / "identity.json").read_text())["rows"]
    lines = [json.loads(line)["sample"] for line in (finished / "mix.jsonl").read_text().splitlines()]
    for number, (task, row) in enumerate(results["tasks"].items()):
        shares = f"{lines[0][number]:.3f} -> {lines[-1][number]:.3f}"
        train = rows[task]["train"]
        assert f"| `{task}` | {train['rows']} | {train['tokens']} | {shares} |" in text
        cells = " | ".join(
            f"{row[key]:.3f}".replace("-0.000", "0.000") for key in ("start_loss", "loss", "specialist_loss")
        )
        assert f"| `{task}` | {row['rows']} | {cells} |" in text
    assert "seed: 0" in text
    assert "DPO (loss sigmoid, beta 0.5)" in text
    assert re.search(r"mixalign train .*steps=4 .*mixer=ama_s", text)
    assert "torch 2." in text
    assert f"mixalign {__version__}, " in text
    assert text.isascii()
    assert "\n\n\n" not in text


def test_no_place_on_this_machine_is_named(finished, tiny, tmp_path):
    run = tmp_path / "run"
    rows = [{"prompt": f"{n}=", "completion": f"{n}"} for n in range(20)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = ["model=pretrained", f"model.path={finished / 'model'}", "lora=default", "objective=sft", "mixer=uniform"]
    source += ["data=local", f"data.tasks.a.path={tmp_path / 'sums.jsonl'}", f"cache_dir={tmp_path / 'cache'}"]
    train_from_overrides([*QUIET, *source, "steps=1", "batch_size=2", "specialists.train=never"], str(run))
    text = card_of(run)
    assert "data.tasks.a.path=sums.jsonl" in text
    assert "run_dir" not in text
    assert "cache_dir" not in text
    assert not re.search(r"(?<![\w.<])/\w+/", text), "no absolute path"
    assert "A LoRA adapter on `ama_s`, trained by SFT" in text
    assert not (run / "model" / "mixture.png").exists(), "the shares stayed"
    assert "They did not change" in text
    assert "rows of `a`: from local files" in text


def test_names_of_a_hub_are_metadata(copy):
    identity = json.loads((copy / "identity.json").read_text())
    identity["origin"] |= {"base_model": "org/base", "data_sets": {"helpful": "org/rows"}}
    (copy / "identity.json").write_text(json.dumps(identity))
    write_card(copy, copy / "model", Shown(license="mit"))
    data = ModelCard.load(copy / "model" / "README.md").data.to_dict()
    assert (data["base_model"], data["datasets"], data["license"]) == ("org/base", ["org/rows"], "mit")
    assert data["base_model_relation"] == "finetune"
    assert "rows of `helpful`: from `org/rows` on the Hugging Face hub" in card_of(copy)
    assert filled_in(copy / "model") == ("mit", "org/base")


def test_what_a_user_wrote_stays_until_there_are_newer_results(copy):
    card, results = copy / "model" / "README.md", copy / "eval.json"
    card.write_text("mine")
    leave_card(copy)
    assert card.read_text() == "mine"
    os.utime(results, ns=(card.stat().st_mtime_ns + 10**9,) * 2)
    leave_card(copy)
    assert card.read_text().startswith("---\nlibrary_name")
    card.unlink()
    leave_card(copy)
    assert card.is_file()


def test_a_card_that_fails_does_not_fail_the_run(copy, caplog):
    (copy / "model" / "README.md").unlink()
    (copy / "mix.jsonl").write_text("{}\n[1]\n")
    leave_card(copy)
    assert "The model card" in caplog.text
    assert "could not be written" in caplog.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("model.path=/home/me/llama", "model.path=llama"),
        ("data.tasks.a={path: /data/a.jsonl, weight: 2}", "data.tasks.a={path: a.jsonl, weight: 2}"),
        ("data.tasks.a.path=~/rows/a.jsonl", "data.tasks.a.path=a.jsonl"),
        ("data.tasks.a.path=../rows/a.jsonl", "data.tasks.a.path=a.jsonl"),
        ("model.path=org/name", "model.path=org/name"),
        ("data.tasks.a.path=https://host/a.jsonl", "data.tasks.a.path=https://host/a.jsonl"),
        ("data.tasks.a.path='/a b/c.jsonl'", "data.tasks.a.path='c.jsonl'"),
    ],
)
def test_files_are_named_without_their_place(text, shown):
    assert without_places(text) == shown


def test_the_command_is_without_what_is_of_this_machine():
    given = ["++data.tasks.a.path=/x/a.jsonl", "run_dir=/x", "cache_dir=/y", "hydra.run.dir=/z", "eval={generate: 2}"]
    assert command(given) == "mixalign train data.tasks.a.path=a.jsonl 'eval={generate: 2}'"


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (
            {"schedule": "constant", "warmup_steps": 0.1},
            "constant schedule after a warm-up over the first 10% of the steps",
        ),
        ({"schedule": "cosine", "warmup_steps": 20}, "cosine schedule after a warm-up over the first 20 steps"),
        ({"schedule": "linear", "warmup_steps": 0}, "linear schedule"),
        (
            {"schedule": "wsd", "warmup_steps": 0, "decay_steps": 0.2},
            "wsd schedule falling over the last 20% of the steps",
        ),
    ],
)
def test_the_schedule_is_told_with_its_warm_up(finished, optimizer, said):
    run = load_run(finished)
    run.config["optimizer"] |= {"decay_steps": None, **optimizer}
    (line,) = (line for line in training(run).splitlines() if line.startswith("- optimizer:"))
    assert line.endswith(f", {said}")

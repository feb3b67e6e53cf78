"""A finished run, evaluated again."""

import json
import shutil

import pytest
import yaml

from mixalign.errors import MixalignError
from mixalign.verbs import evaluate


def results(run):
    """What the run wrote at its end, without what is of its training, and what `evaluate` wrote."""
    at_its_end, again = (json.loads((run / name).read_text()) for name in ("eval.json", "eval_test.json"))
    assert at_its_end["steps"] > 0
    return at_its_end, again


def test_the_test_rows_give_eval_json_again(copy, capsys):
    evaluate.run(copy, "test")
    at_its_end, again = results(copy)
    assert again == at_its_end, "to the last digit"
    assert "<- worst" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.precision=bf16-mixed",),
        ("lora=default", "lora.r=2", "optimizer.lr=0.05"),
        ("lora=default", "lora.r=2", "optimizer.lr=0.05", "reference.mode=adapter_off", "trainer.precision=bf16-mixed"),
        ("reference.mode=frozen_copy",),
        ("objective=sft", "eval_batch_size=3"),
    ],
    ids=" ".join,
)
def test_so_it_does_in_every_precision_and_with_adapters(train, overrides):
    run = train("mixer=uniform", "specialists.train=never", *overrides)
    evaluate.run(run, "test")
    at_its_end, again = results(run)
    assert again == at_its_end, "to the last digit"


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=bf16-mixed"),
        ("engine.layout=packed", "engine.compile=true", "specialists.train=never"),  # compiles for its whole process
    ],
    ids=["two ranks", "compiled"],
)
def test_so_it_does_in_processes_of_their_own(cli, tiny, tmp_path, overrides):
    done = cli("train", *tiny("mixer=uniform", *overrides), f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    done = cli("evaluate", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    at_its_end, again = results(tmp_path / "run")
    assert again == at_its_end, "to the last digit"


@pytest.mark.parametrize(("split", "rows"), [("validation", 8), ("train", 40)])
def test_other_splits_get_files_of_their_own(copy, split, rows):
    before = (copy / "eval.json").read_bytes()
    evaluate.run(copy, split)
    found = json.loads((copy / f"eval_{split}.json").read_text())
    assert found["split"] == split
    assert {row["rows"] for row in found["tasks"].values()} == {rows}
    assert (copy / "eval.json").read_bytes() == before


def test_an_unknown_split_is_refused_with_the_known_ones(copy):
    with pytest.raises(MixalignError, match=r"have no extra split. They have: train, validation, test"):
        evaluate.run(copy, "extra")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(MixalignError, match=r"is no run folder: it has no config\.yaml"):
        evaluate.run(tmp_path, "test")


def test_what_has_no_rows_of_its_own_is_told_what_is_meant(copy, tmp_path):
    exported = shutil.copytree(copy / "model", tmp_path / "exported")
    for folder, cure in (
        (exported, "Any other model is measured on rows that you name; --data F is for further rows."),
        (copy / "model", f"Give that of its run: {copy}; --data F"),
        (copy.parent, f"Give one of the runs in it: {copy.name}"),
    ):
        with pytest.raises(MixalignError) as caught:
            evaluate.run(folder, "test")
        assert cure in str(caught.value)


def test_a_run_that_did_not_finish_is_refused(copy):
    shutil.rmtree(copy / "model")
    with pytest.raises(MixalignError, match="has no model to evaluate"):
        evaluate.run(copy, "test")


def test_a_run_whose_rows_are_gone_says_so(copy):
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["data"]["tasks"]["helpful"] = {"path": str(copy / "gone.jsonl")}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(MixalignError, match=r"Task `helpful`: .*gone\.jsonl does not exist"):
        evaluate.run(copy, "test")

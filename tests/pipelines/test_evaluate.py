"""A finished run, evaluated again."""

import json
import shutil

import pytest
import yaml

from mixalign.errors import MixalignError
from mixalign.pipelines import evaluate


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def test_the_test_rows_give_eval_json_again(copy, capsys):
    evaluate.run(copy, "test")
    found, wanted = (json.loads((copy / name).read_text()) for name in ("eval_test.json", "eval.json"))
    assert found["worst"].keys() == wanted["worst"].keys()
    assert {k: found[k] for k in ("mixer", "objective", "seed", "split")} == {
        k: wanted[k] for k in ("mixer", "objective", "seed", "split")
    }
    for task, row in wanted["tasks"].items():
        assert found["tasks"][task] == pytest.approx(row, abs=1e-6)
    assert "<- worst" in capsys.readouterr().out


@pytest.mark.parametrize(("split", "rows"), [("validation", 8), ("train", 40)])
def test_other_splits_get_files_of_their_own(copy, split, rows):
    before = (copy / "eval.json").read_bytes()
    evaluate.run(copy, split)
    found = json.loads((copy / f"eval_{split}.json").read_text())
    assert found["split"] == split
    assert {row["rows"] for row in found["tasks"].values()} == {rows}
    assert (copy / "eval.json").read_bytes() == before


def test_an_adapter_run_is_evaluated_on_its_base(train):
    run = train("lora=default", "lora.r=2", "optimizer.lr=0.05", "mixer=uniform", "specialists.train=never")
    evaluate.run(run, "test")
    found, wanted = (json.loads((run / name).read_text()) for name in ("eval_test.json", "eval.json"))
    assert found["mean"] == pytest.approx(wanted["mean"], abs=1e-6)


def test_an_unknown_split_is_refused_with_the_known_ones(copy):
    with pytest.raises(MixalignError, match=r"have no extra split. They have: train, validation, test"):
        evaluate.run(copy, "extra")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(MixalignError, match=r"is no run folder: it has no config\.yaml"):
        evaluate.run(tmp_path, "test")


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

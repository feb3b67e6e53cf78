"""The object that `train` returns: the dict of eval.json, and what lies in the run's folder."""

import json

import pytest

from mixalign import MixalignError, Result, train
from mixalign.models.load import Pretrained


@pytest.fixture(scope="module")
def result(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("python") / "run"
    return train(*tiny(), mixer="ama_r", run_dir=folder, optimizer={"lr": 2e-3}, steps=4)


def test_it_is_what_eval_json_holds(result):
    assert result == json.loads((result.run_dir / "eval.json").read_text())
    assert json.loads(json.dumps(result)) == result
    assert result["mixer"] == "ama_r"
    config = (result.run_dir / "config.yaml").read_text()
    assert "lr: 0.002" in config


def test_the_worst_task(result):
    task, value, quantity = result.worst
    assert quantity == "excess"
    assert value == max(row["excess"] for row in result["tasks"].values()) == result["tasks"][task]["excess"]
    without = Result(result | {"worst": {"loss": {"task": "a", "value": 2.0}}}, result.run_dir)
    assert without.worst == ("a", 2.0, "loss")


def test_the_mixture_and_its_picture(result, tmp_path):
    assert result.mixture == json.loads((result.run_dir / "mixture.json").read_text())
    figure = result.plot(tmp_path / "mixture.svg")
    assert "<svg" in (tmp_path / "mixture.svg").read_text()
    assert len(figure.axes[0].collections) == len(result.mixture["tasks"])


def test_the_model_is_the_exported_one(result):
    model, tokenizer = result.model()
    wanted = Pretrained(str(result.run_dir / "model")).build().state_dict()
    assert all(weight.equal(wanted[name]) for name, weight in model.state_dict().items())
    assert model(**tokenizer("1 + 1", return_tensors="pt", return_token_type_ids=False)).logits.isfinite().all()


def test_a_trial_keeps_nothing(result, tmp_path):
    thrown_away = Result(result, tmp_path / "nowhere")
    for look in (lambda: thrown_away.mixture, thrown_away.model, thrown_away.plot):
        with pytest.raises(MixalignError, match=r"nowhere.* is not there"):
            look()

"""`export=averaged`, and the mean as a candidate of `export=best`: the model, the results, and what goes wrong."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from mixalign.errors import MixalignError
from mixalign.runs.summary import eval_table
from tests.tiny_runs import train_from_overrides

FILES = ("mix.jsonl", "mixture.json", "eval.json", "metrics.csv", "model/model.safetensors")
WILD = ("optimizer.lr=1", "optimizer.warmup_steps=0")  # the first step is the best one


def read(run, name="eval.json"):
    return json.loads((run / name).read_text())


def column(run, name):
    heads, *lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    return [float(line[heads.index(name)]) for line in lines if line[heads.index(name)]]


def policy(run):
    return AutoModelForCausalLM.from_pretrained(run / "model").state_dict()


def gone(*_):
    raise OSError("no disk")


def mean_in(run):
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["AverageWeights"]
    return {name.removeprefix("model."): value for name, value in state["mean"].items()}


@pytest.mark.long
@pytest.mark.parametrize("mixer", ["uniform", "ama_s", "ama_r", "doremi", "ideal"])
def test_every_kind_of_mixer_ends_with_the_mean(of_mixer, mixer):
    """Of the steps, of a proxy's final training, and of every round."""
    more = ["mixer.rounds=1", "influence.bootstrap=10"] if mixer == "ideal" else []
    run = of_mixer(mixer, "export=averaged", "log_every=1", *more)
    result = read(run)
    assert result["exported"]["averaged"] == [7, 8]
    assert result["exported"]["monitor"] is None
    place = run / "rounds" / str(result["best_round"]) if mixer == "ideal" else run
    kept, last = mean_in(place), torch.load(place / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    model = policy(run)
    assert all(torch.equal(model[name], value) for name, value in kept.items())
    assert not all(torch.equal(model[name.removeprefix("model.")], value) for name, value in last.items())


def test_results_say_what_was_kept_and_what_else_there_was(of_mixer, in_process):
    run = of_mixer("ama_s", "export=averaged", "log_every=1")
    exported = read(run)["exported"]
    values = column(run, "eval/worst_excess")
    candidates = exported["candidates"]
    assert candidates["by"] == "eval/worst_excess"
    assert candidates["last"] == pytest.approx(values[-1])
    assert candidates["best"] == pytest.approx(min(values))
    assert candidates["averaged"] == pytest.approx(max(exported["validation"]["excess"].values()))
    shown = f"last step {values[-1]:.3f}, best step {min(values):.3f}, "
    shown += f"mean of the last weights {candidates['averaged']:.3f}"
    line = f"kept: the mean of the weights of steps 7 to 8 of 8; worst excess on validation rows: {shown}"
    assert " ".join(eval_table(read(run)).split()).endswith(line)
    code, out, err = in_process("evaluate", run)
    assert code == 0, err
    assert line in " ".join(out.split())


@pytest.mark.long
def test_an_adapter_is_averaged_alone(train):
    run = train("mixer=ama_s", "lora=default", "lora.r=2", "export=averaged")
    assert read(run)["exported"]["averaged"] == [4, 4]
    assert {part.rpartition(".lora_")[2][0] for part in mean_in(run)} == {"A", "B"}


def test_the_mean_is_kept_by_validation_where_export_chooses(train):
    """Two steps that overshoot in turn have a mean between them; a first step that is best is not given up for it."""
    run = train("mixer=uniform", "export=best", "average_last=0.5", "val_every=1", "log_every=1", *WILD)
    exported = read(run)["exported"]
    values = exported["candidates"]
    measured = column(run, values["by"])
    assert values["last"] == pytest.approx(measured[-1])
    assert measured[-1] > min(measured), "the last step is the best one, so the test would show nothing"
    assert values["best"] < values["averaged"], "the mean is the best one, so the test would show nothing"
    assert exported["value"] == values["best"]
    assert "averaged" not in exported
    other = train("mixer=uniform", "export=best", "average_last=0.5", run="calm")
    exported = read(other)["exported"]
    values = exported["candidates"]
    assert exported["value"] == min(values["best"], values["averaged"])
    assert ("averaged" in exported) == (values["averaged"] < values["best"])


def test_the_last_weights_are_kept_to_the_bit_where_they_are_asked_for(train):
    plain = train("mixer=uniform", "export=last")
    run = train("mixer=uniform", "export=last", "average_last=0.5", run="with")
    assert {name: value for name, value in read(run)["exported"].items() if name != "candidates"} == read(plain)[
        "exported"
    ]
    assert (run / "model/model.safetensors").read_bytes() == (plain / "model/model.safetensors").read_bytes()


@pytest.mark.long
def test_an_interrupted_run_is_the_same_to_the_bit(tiny, tmp_path, power_cut, monkeypatch):
    given = tiny("mixer=ama_s", "export=averaged", "steps=8", "save_every=1")
    train_from_overrides(given, str(tmp_path / "calm"))
    with power_cut(8):
        train_from_overrides(given, str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr("mixalign.runs.train_one.save_model", gone)
        with pytest.raises(OSError, match="no disk"):  # behind the training, with the mean in the model
            train_from_overrides(given, str(tmp_path / "run"))
    train_from_overrides(given, str(tmp_path / "run"))
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes(), name


def test_a_run_that_ends_before_its_mean_begins_keeps_its_last_weights_and_says_so(train, caplog):
    run = train("mixer=uniform", "export=averaged", "steps=20", "mixer.wrap.max_epochs=0.5")
    steps = read(run)["steps"]
    assert steps < 15
    assert read(run)["exported"] == {"step": steps, "monitor": None, "value": None}
    assert f"ended at step {steps}, before the first step of the mean of the weights (15)" in caplog.text


@pytest.mark.long
def test_a_run_is_not_extended_past_where_its_mean_would_begin(tiny, tmp_path):
    given = tiny("mixer=uniform", "export=averaged")
    train_from_overrides([*given, "steps=8"], str(tmp_path / "run"))
    with pytest.raises(MixalignError, match=r"from 8 to 10 steps: the mean of its weights would begin at step 8, and"):
        train_from_overrides([*given, "steps=10"], str(tmp_path / "run"))
    result = train_from_overrides([*given, "steps=16"], str(tmp_path / "run"))
    assert result["exported"]["averaged"] == [12, 16]
    train_from_overrides([*given, "steps=16"], str(tmp_path / "whole"))
    for name in ("eval.json", "model/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.long
def test_a_mean_that_is_a_candidate_begins_later_in_a_run_that_is_extended_by_a_few_steps(tiny, tmp_path, caplog):
    given = tiny("mixer=uniform")
    train_from_overrides([*given, "steps=8"], str(tmp_path / "run"))
    result = train_from_overrides([*given, "steps=10"], str(tmp_path / "run"))
    assert (
        "The mean of the weights begins at step 9, not at step 8: the checkpoint is of step 8 and has none."
        in caplog.text
    )
    assert result["steps"] == 10
    assert set(result["exported"]["candidates"]) == {"by", "last", "best", "averaged"}


@pytest.mark.long
@pytest.mark.parametrize(("mixer", "part"), [("ideal", "rounds/0"), ("doremi", "proxy")])
def test_trainings_that_do_not_keep_a_mean_take_none(of_mixer, mixer, part, tmp_path):
    own_cache = f"cache_dir={tmp_path}"  # a first round that is found in a cache comes without its checkpoints
    more = ["mixer.rounds=1", "influence.bootstrap=10", own_cache] if mixer == "ideal" else []
    run = of_mixer(mixer, *more)
    saved = torch.load(run / part / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    assert "AverageWeights" not in saved
    assert "candidates" not in read(run / part)["exported"]
    if mixer == "doremi":
        assert "candidates" in read(run)["exported"]


def test_a_run_of_other_defaults_names_what_they_were(train, tiny, refuse):
    then = ("mixer=ama_s", "average_last=null")
    run = train(*then)
    message = refuse(tiny("mixer=ama_e"), run)
    assert (
        "average_last: got None, wanted 0.3; mixer.entropy: got 0.0, wanted 0.1; mixer.eta: got 0.1, wanted 0.2"
        in message
    )
    assert train(*then) == run, "it is finished"


@pytest.mark.parametrize("key", ["export=averaged", "average_last=0.2"])
def test_weights_that_are_spread_over_processes_are_refused_by_name(refuse, tiny, key):
    message = refuse(tiny("mixer=uniform", key, "trainer=fsdp2", "trainer.devices=1"))
    assert f"`{'average_last' if 'last' in key else key}` keeps a mean of the weights" in message
    assert "(fullysharded) spreads them over processes" in message
    assert "Take `trainer=ddp`" in message

"""Run folders, checkpoints and caches that are damaged or of something else: one clear sentence, nothing harmed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from mixalign.config.compose import compose_config
from mixalign.config.messages import user_message
from mixalign.errors import MixalignError
from mixalign.models.adapters import load_adapter
from mixalign.models.load import LoRA, add_lora
from mixalign.models.tiny import TinyLlama
from mixalign.verbs import evaluate, report
from tests.tiny_runs import train_from_overrides


def snapshot(*folders: Path) -> dict[Path, bytes]:
    """The content of every file."""
    return {file: file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()}


def changed(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """An edit of config.yaml."""

    def edit(run: Path) -> None:
        settings = yaml.safe_load((run / "config.yaml").read_text())
        change(settings)
        (run / "config.yaml").write_text(yaml.safe_dump(settings))

    return edit


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_text(text)


DAMAGED = {  # what is done to a run, and what `mixalign evaluate` says
    "no run": (lambda run: (run / "config.yaml").unlink(), "is no run folder: it has no config.yaml."),
    "not finished": (lambda run: shutil.rmtree(run / "model"), "has no model to evaluate: the run did not finish."),
    "config.yaml is torn": (
        written("config.yaml", "a: [b"),
        "config.yaml cannot be read: while parsing a flow sequence",
    ),
    "config.yaml is a list": (
        written("config.yaml", "- a"),
        "config.yaml holds a list, and not the configuration of a",
    ),
    "config.yaml is empty": (
        written("config.yaml", ""),
        "config.yaml has no `data`: another version of mixalign wrote it",
    ),
    "an older version": (
        changed(lambda c: c.pop("engine")),
        "config.yaml has no `engine`: another version of mixalign",
    ),
    "a newer version": (
        changed(lambda c: c["engine"].update(turbo=1)),
        "`turbo` is no setting of mixalign.training.engine",
    ),
    "its classes are gone": (
        changed(lambda c: c["objective"].update(_target_="mixalign.objectives.gone.Gone")),
        "`_target_: mixalign.objectives.gone.Gone` cannot be imported",
    ),
    "settings that cannot be": (
        changed(lambda c: c.update(eval_batch_size=0)),
        "`eval_batch_size` is 0, but must be a",
    ),
    "weights are torn": (
        written("model/model.safetensors", "hello, this is no model"),
        "cannot be loaded as AutoModelForCausalLM: Error while deserializing header",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_run_that_cannot_be_evaluated(copy, cache, case):
    change, said = DAMAGED[case]
    change(copy)
    before = snapshot(copy, cache)
    with pytest.raises(MixalignError) as caught:
        evaluate.run(copy, "test")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert snapshot(copy, cache) == before


def test_a_run_with_keys_of_another_version_is_evaluated(copy):
    """What is missing has a default, and what is too much is not read."""
    later = ("probe", "merge", "influence")
    edit = changed(lambda c: ([c.pop(group) for group in later], c["data"].pop("workers"), c.update(new=1)))
    edit(copy)
    evaluate.run(copy, "validation")
    assert (copy / "eval_validation.json").is_file()


CLAIMED = {
    "config.yaml is torn": (
        written("config.yaml", "a: [b"),
        "config.yaml cannot be read: while parsing a flow sequence",
    ),
    "an older version": (
        changed(lambda c: c.pop("engine")),
        "config.yaml has no `engine`: another version of mixalign",
    ),
    "other settings": (
        changed(lambda c: c.update(seed=9)),
        "already holds a run with other settings (seed: got 9, wanted 0)",
    ),
    "eval.json is torn": (written("eval.json", '{"mixer"'), "eval.json is damaged (Expecting ':' delimiter"),
    "eval.json is a list": (written("eval.json", "[]"), "eval.json holds a list in place of an object"),
}


@pytest.mark.parametrize("case", CLAIMED)
def test_a_folder_that_is_not_gone_on_with(refuse, tiny, copy, cache, case):
    change, said = CLAIMED[case]
    change(copy)
    before = snapshot(copy, cache)
    assert said in refuse(tiny("mixer=ama_s"), run=copy)
    assert snapshot(copy, cache) == before


SPOILT = {  # what of a cache is written over by what, and what is said
    "a recipe is torn": ("reference/*/recipe.json", b"{", "recipe.json is damaged (Expecting property name"),
    "a recipe is a list": ("specialists/*/recipe.json", b"[]", "recipe.json holds a list in place of an object"),
    "scores are torn": ("scores/*", b"x" * 50, "is damaged (Error while deserializing header"),
    "the folder of locks is a file": ("locks", None, "locks is a file, and a folder is wanted there"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_cache_that_is_damaged(tiny, finished, cache, tmp_path, case):
    """Nothing of it is trained again silently, and nothing is deleted."""
    pattern, content, said = SPOILT[case]
    own = shutil.copytree(cache, tmp_path / "cache")
    if content is None:
        shutil.rmtree(own / "locks")
        shutil.rmtree(own / "scores")
        (own / "locks").write_text("mine")
    for path in own.glob(pattern) if content is not None else ():
        path.write_bytes(content)
    before = snapshot(own)
    with pytest.raises((MixalignError, OSError)) as caught:
        train_from_overrides(tiny("mixer=ama_s", f"cache_dir={own}"), str(tmp_path / "run"))
    assert said in (user_message(caught.value) or "")
    assert snapshot(own) == before
    assert not (tmp_path / "run" / "model").exists()


def test_a_model_that_is_missing_from_the_cache(tiny, refuse, finished, cache, tmp_path):
    own = shutil.copytree(cache, tmp_path / "cache")
    shutil.rmtree(own / "scores")
    for model in own.glob("reference/*/model"):
        shutil.rmtree(model)
    message = refuse(tiny("mixer=ama_s", f"cache_dir={own}"))
    assert message.startswith(f"The model {own}/reference/")
    assert "cannot be loaded: there is no such folder. Delete " in message


CHECKPOINTS = {  # a checkpoint made of a good one, further overrides, and what is said
    "no checkpoint": (lambda good, path: path.write_bytes(b"hello"), (), "cannot be read: it is no file of torch.save"),
    "torn": (lambda good, path: path.write_bytes(good.read_bytes()[:-999]), (), "cannot be read: it is torn"),
    "a tensor": (lambda good, path: torch.save(torch.ones(3), path), (), "it is no checkpoint of a training"),
    "something else": (lambda good, path: torch.save({"a": 1}, path), (), "it is no checkpoint of a training"),
    "another mixer": (
        shutil.copy,
        ("mixer=ama_r",),
        "is of a run that trains something else (mixer._target_: got 'mixal",
    ),
    "another model": (shutil.copy, ("model.num_layers=2",), "something else (model.num_layers: got 1, wanted 2)"),
    "another objective": (shutil.copy, ("objective.beta=0.3",), "something else (objective.beta: got 0.5, wanted 0.3)"),
    "other tasks": (
        shutil.copy,
        ("data.tasks.compare=null",),
        "something else (data.tasks: got ['compare', 'helpful',",
    ),
    "an adapter": (shutil.copy, ("lora=default",), "something else (lora._target_: got None, wanted 'mixalign.models"),
}


@pytest.mark.long
@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_gone_on_from(tiny, refuse, finished, cache, tmp_path, case):
    make, more, said = CHECKPOINTS[case]
    path = tmp_path / "other" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    shutil.copy(finished / "config.yaml", tmp_path / "other")
    make(finished / "checkpoints" / "last.ckpt", path)
    before = snapshot(cache, finished)
    message = refuse(tiny("mixer=ama_s", *more, f"resume={path}"))
    assert message.startswith(f"`resume={path}` ")
    assert said in message
    assert "\n" not in message
    assert snapshot(cache, finished) == before
    assert not (tmp_path / "refused" / "checkpoints").exists()


def test_a_checkpoint_without_the_weights_that_are_trained(tiny, refuse, finished, tmp_path):
    """Lightning would load the others, and go on from the start with the optimizer of the end."""
    path = tmp_path / "bare.ckpt"
    torch.save(torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True) | {"state_dict": {}}, path)
    message = refuse(tiny("mixer=ama_s", "steps=8", f"resume={path}"))
    said = (
        f"The checkpoint {path} is of another model: for `model.model.embed_tokens.weight` of shape [264, 16] it has no"
    )
    assert message.startswith(said)


@pytest.mark.parametrize("broken", ["another base", "torn weights", "torn settings"])
def test_an_adapter_that_does_not_fit(tmp_path, broken):
    base = TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
    other = TinyLlama(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=32)
    add_lora((other if broken == "another base" else base).build(), LoRA(r=2)).save_pretrained(tmp_path)
    if broken != "another base":
        (tmp_path / f"adapter_{'model.safetensors' if broken == 'torn weights' else 'config.json'}").write_text("{")
    with pytest.raises(MixalignError) as caught:
        load_adapter(base.build(), tmp_path)
    said = f"The adapter {tmp_path} is damaged, or does not fit the model that it is put on: "
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith("Put it on the one that it was trained on, or train it again.")


def test_a_report_of_a_folder_without_runs(tmp_path):
    with pytest.raises(MixalignError, match="No run found in"):
        report.run([tmp_path])
    with pytest.raises(MixalignError, match="is no folder"):
        report.run([tmp_path / "gone"])
    assert not (tmp_path / "report.html").exists()


def test_the_saved_config_of_a_good_run_composes_again(finished):
    """What a run wrote is what a user may start from: no key of it is refused."""
    saved = yaml.safe_load((finished / "config.yaml").read_text())
    assert set(saved) == set(compose_config([]))

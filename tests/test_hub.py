"""Models and data sets of a hub that answers, refuses, or cannot be reached; it is a server on this machine."""

import json
import shutil

import pytest

from mixalign.data.read.sources import TaskSpec, load_task
from mixalign.errors import MixalignError
from mixalign.models.load import Pretrained
from mixalign.models.tiny import TinyLlama, byte_tokenizer

SMALL = TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
WHAT_TO_DO = ("local folder", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT")


@pytest.fixture
def model(hub, tmp_path):
    """A model of the hub."""
    SMALL.build().save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    hub.answers["org/name"] = tmp_path / "model"
    return Pretrained("org/name")


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    datasets.disable_progress_bars()
    return datasets


def load(path: str, **spec):
    return load_task("maths", TaskSpec(path=path, **spec))


def refusal(source) -> str:
    with pytest.raises(MixalignError) as caught:
        source()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_model_comes_from_the_hub_and_then_from_the_cache(hub, model, monkeypatch, caplog):
    """With the hub, without it, and with HF_HUB_OFFLINE, which lets nobody ask."""
    from huggingface_hub import constants

    wanted = SMALL.build().state_dict()

    def loads() -> bool:
        found = model.build().state_dict()
        assert model.tokenizer()("hi") == byte_tokenizer()("hi")
        return all(found[name].equal(weight) for name, weight in wanted.items())

    assert loads()
    assert any(path.endswith("/model.safetensors") for path in hub.asked), "by branch, or by the commit that it is at"
    hub.asked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert loads()
    assert hub.asked == []
    assert caplog.text == ""
    hub.close()
    assert loads()
    assert f"{hub.url}, which could not be reached" in caplog.text
    assert caplog.text.count("the copy in the cache is taken") == 1
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("part", ["build", "tokenizer"])
def test_a_hub_that_cannot_be_reached_is_one_clear_message(hub, part):
    hub.close()
    said = refusal(getattr(Pretrained("org/name"), part))
    assert said.startswith("`model.path=org/name` cannot be loaded as Auto")
    assert f"config.json of the model org/name was wanted from {hub.url}, which could not be reached" in said
    assert all(word in said for word in (*WHAT_TO_DO, "hf download org/name", str(hub.cache)))


def test_a_model_that_is_half_in_the_cache_is_refused_without_the_hub(hub, model):
    model.build()
    (weights,) = hub.cache.glob("**/model.safetensors")
    weights.unlink()
    hub.close()
    assert "does not hold it whole" in refusal(model.build)


def test_a_data_set_of_a_hub_that_cannot_be_reached(hub, datasets, tmp_path, monkeypatch):
    (tmp_path / "owner" / "sett").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    hub.close()
    said = refusal(lambda: load("owner/set"))
    assert said.startswith("Task `maths`: `owner/set` is no file or folder here")
    assert f"README.md of the dataset owner/set was wanted from {hub.url}, which could not be reached" in said
    assert all(word in said for word in (*WHAT_TO_DO, "Did you mean owner/sett?", str(tmp_path / "datasets")))


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_nobody_asks(hub, datasets, monkeypatch, switch):
    from huggingface_hub import constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # both switches set this one
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", switch == "HF_HUB_OFFLINE")
    assert "since HF_HUB_OFFLINE or HF_DATASETS_OFFLINE forbids it" in refusal(lambda: load("owner/set"))
    if switch == "HF_HUB_OFFLINE":
        assert "since HF_HUB_OFFLINE forbids it" in refusal(Pretrained("org/name").build)
    assert hub.asked == []


@pytest.mark.parametrize("reachable", [True, False])
def test_a_data_set_in_the_cache_needs_no_hub(hub, datasets, tmp_path, monkeypatch, reachable):
    """Its place in the cache is that of a data set of the hub; offline the server is there, and nobody asks it."""
    (tmp_path / "set").mkdir()
    rows = [{"prompt": f"{n}=", "completion": "x"} for n in range(20)]
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    datasets.load_dataset(str(tmp_path / "set"))
    shutil.move(tmp_path / "datasets" / "set", tmp_path / "datasets" / "owner___set")
    if reachable:
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    else:
        hub.close()
    assert {split: len(part) for split, part in load("owner/set").items()} == {"train": 18, "validation": 2}
    assert hub.asked == []
    assert datasets.config.HF_HUB_OFFLINE is reachable


ANSWERS = {
    "gated": ((401, "GatedRepo"), "is gated (HTTP 401)", "HF_TOKEN"),
    "missing": ((404, "RepoNotFound"), "does not exist, or is not open to you (HTTP 404)", "Check the name"),
    "private": ((401, "RepoNotFound"), "does not exist, or is not open to you (HTTP 401)", "HF_TOKEN"),
    "forbidden": ((403, "Forbidden"), "does not exist, or is not open to you (HTTP 403)", "HF_TOKEN"),
    "revision": ((404, "RevisionNotFound"), "has no revision `main`", "branch, tag or commit"),
}


@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize("name", ANSWERS)
def test_what_the_hub_refuses_is_said(hub, datasets, name, kind):
    answer, reason, advice = ANSWERS[name]
    hub.answers |= {"org/name": answer, "datasets/org/name": answer}
    source = Pretrained("org/name", "main").tokenizer if kind == "model" else lambda: load("org/name", revision="main")
    said = refusal(source)
    assert reason in said
    assert advice in said
    assert len(hub.asked) == 1


def test_what_is_no_name_of_the_hub_is_not_asked_for(hub):
    assert "`some/where/else` is no folder here and no name of the hub" in refusal(Pretrained("some/where/else").build)
    assert hub.asked == []

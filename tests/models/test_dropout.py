"""No noise in any family's forward pass in training mode, and that of adapters only where it is left on."""

from copy import deepcopy

import pytest
import torch
import transformers as hf

from mixalign.jobs.check_model import warn_of_dropout
from mixalign.models.dropout import as_configured, configured_dropout, set_dropout
from mixalign.models.load import LoRA, add_lora

SMALL = {"vocab_size": 32}
NAMED = SMALL | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = {
    "OPT": hf.OPTConfig(
        **NAMED, ffn_dim=32, word_embed_proj_dim=16, dropout=0.3, attention_dropout=0.3, activation_dropout=0.3,
        layerdrop=0.3,
    ),
    "Llama": hf.LlamaConfig(**NAMED, intermediate_size=32, attention_dropout=0.3),
    "GPT2": hf.GPT2Config(**SMALL, n_embd=16, n_layer=2, n_head=2, attn_pdrop=0.3, resid_pdrop=0.3, embd_pdrop=0.3),
    "Bloom": hf.BloomConfig(**SMALL, hidden_size=16, n_layer=2, n_head=2, hidden_dropout=0.3, attention_dropout=0.3),
    "Falcon": hf.FalconConfig(**NAMED, hidden_dropout=0.3, attention_dropout=0.3),
    "GPTNeoX": hf.GPTNeoXConfig(**NAMED, intermediate_size=32, hidden_dropout=0.3, attention_dropout=0.3),
    "XGLM": hf.XGLMConfig(**SMALL, d_model=16, num_layers=2, attention_heads=2, ffn_dim=32, activation_dropout=0.3),
    "BioGpt": hf.BioGptConfig(**NAMED, intermediate_size=32, activation_dropout=0.3, layerdrop=0.3),
}  # fmt: skip


def built(family):
    """A model with a configuration of its own, which turning dropout off changes."""
    return hf.AutoModelForCausalLM.from_config(deepcopy(FAMILIES[family]))


def noise(model):
    """The largest difference between passes over the same words in training mode, and in evaluation mode."""
    ids = torch.arange(12)[None]
    with torch.no_grad():
        wanted = model.eval()(ids, use_cache=False).logits
        model.train()
        return max(float((model(ids, use_cache=False).logits - wanted).abs().max()) for _ in range(4))


@pytest.mark.parametrize("family", FAMILIES)
def test_training_mode_has_no_noise(family):
    model = built(family)
    before = model.config.to_dict()
    assert noise(model) > 1e-4
    assert not set_dropout(model)
    assert noise(model) < 1e-5
    with as_configured(model):
        assert model.config.to_dict() == before, "what is saved says what the model was made with"
    assert noise(model) < 1e-5


@pytest.mark.parametrize("wanted", [True, False])
def test_that_of_adapters_is_left_where_it_is_wanted(wanted):
    model = add_lora(built("GPTNeoX"), LoRA(r=2, lora_dropout=0.5))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(weight)
    assert set_dropout(model, in_adapters=wanted) is wanted
    assert (noise(model) > 1e-3) is wanted
    assert {p.p for n, p in model.named_modules() if isinstance(p, torch.nn.Dropout) and "lora" not in n} == {0.0}


def test_an_adapter_without_dropout_has_none_left():
    model = add_lora(built("Llama"), LoRA(r=2))
    assert not set_dropout(model, in_adapters=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_user_of_sft_is_told_that_the_models_own_is_off(family, caplog):
    model = built(family)
    warn_of_dropout(model, "preference")
    assert caplog.messages == [], "it would be noise there"
    warn_of_dropout(model, "supervised")
    assert "=0.3" in caplog.text
    assert "which is off: a base model is trained without. In SFT that of adapters acts" in caplog.text
    assert "classifier" not in caplog.text
    assert "summary" not in caplog.text


def test_nothing_is_said_of_a_model_without():
    config = hf.GPT2Config(**SMALL, n_embd=16, n_layer=1, n_head=2, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
    assert configured_dropout(hf.AutoModelForCausalLM.from_config(config)) == {}

"""LoRA layers that round once: PEFT's numbers where those are exact, and small adapters kept where they are not."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from mixalign.models.adapted_linear import AdaptedLinear
from mixalign.models.adapters import READS, load_adapter, round_once
from mixalign.models.load import LoRA, Pretrained, add_lora
from mixalign.models.tiny import TinyLlama, byte_tokenizer
from mixalign.objectives.dpo import DPO
from mixalign.training.module import AlignModule
from mixalign.training.optimizer import Optimizer

SMALL = TinyLlama(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32)


class Holder(nn.Module):
    """One linear layer that PEFT puts an adapter on."""

    def __init__(self, bias=False, inner=24, outer=40):
        super().__init__()
        self.part = nn.Linear(inner, outer, bias=bias)

    def forward(self, x):
        return self.part(x)


def adapted(bias=False, moved=1.0, dtype=torch.float32, inner=24, **how):
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": ["part"]} | how)
    model = get_peft_model(Holder(bias, inner), config).to(dtype)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(moved * torch.randn_like(weight))
    return model


def layer_of(model):
    return model.base_model.model.part


def pair(**how):
    """PEFT's model, and the same that rounds once."""
    theirs = adapted(**how)
    return theirs, round_once(copy.deepcopy(theirs))


def watched(model):
    """Hooks that read, as those that influence is measured by do."""

    def hook(module, inputs, output):
        return output.view_as(output)

    setattr(hook, READS, True)
    for factor in (layer_of(model).lora_A, layer_of(model).lora_B):
        factor["default"].register_forward_hook(hook)
    return hook


WAYS = {
    "plain": ({}, lambda model: None),
    "dropout": ({"lora_dropout": 0.5}, lambda model: None),
    "watched": ({}, watched),
}


@pytest.mark.parametrize("rank", [1, 3, 40])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_outputs_and_gradients_are_those_of_peft_in_float64(way, bias, rank):
    how, change = WAYS[way]
    theirs, ours = pair(bias=bias, r=rank, dtype=torch.float64, **how)
    assert type(layer_of(ours)) is AdaptedLinear
    found = []
    for model in (theirs, ours):
        change(model)
        torch.manual_seed(1)
        x = torch.randn(2, 5, 24, dtype=torch.float64, requires_grad=True)
        out = model(x)
        (out * torch.randn_like(out)).sum().backward()
        found.append([out, x.grad, *(w.grad for w in model.parameters() if w.requires_grad)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert len(found[0]) == 4
    assert layer_of(ours)._is_one_product("default") == (way == "plain")


@pytest.mark.parametrize("inner", [16, 24, 64, 176, 577])
@pytest.mark.parametrize("number", [1, 7, 64, 300])
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_read_of_what_memory_held_before(way, inner, number, monkeypatch):
    """A CPU's product in bfloat16 reads whole tiles, beyond the columns that it was given."""
    empty = torch.empty
    how, change = WAYS[way]
    _, model = pair(inner=inner, **how)
    change(model)
    monkeypatch.setattr("mixalign.models.adapted_linear.torch.empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    x = torch.randn(number, inner, requires_grad=True)
    for autocast in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = model(x)
        out.float().square().sum().backward()
        gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
        assert all(torch.isfinite(one).all() for one in (out, x.grad, *gradients))


def test_an_input_without_a_gradient_gets_none():
    _, ours = pair()
    ours(torch.randn(4, 24)).sum().backward()
    assert layer_of(ours).lora_B["default"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "weights in bfloat16"])
@pytest.mark.parametrize("way", WAYS)
def test_an_adapter_below_the_rounding_of_the_base_is_kept(way, autocast):
    """What the adapter changes, along what it should change: 1 is all of it."""
    kept = []
    dtype = torch.float32 if autocast else torch.bfloat16
    how, change = WAYS[way]
    moved = 1e-4 if way == "dropout" else 2e-4  # what it keeps, it doubles
    for model in pair(moved=moved, inner=256, dtype=dtype, **how):
        change(model)
        torch.manual_seed(2)
        x = torch.randn(512, 256, dtype=dtype)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            torch.manual_seed(4)  # of the dropout
            out = model(x).double()
            with model.disable_adapter():
                base = model(x).double()
        a, b = (part["default"].weight.detach().double() for part in (layer_of(model).lora_A, layer_of(model).lora_B))
        seen = x
        if way == "dropout":
            torch.manual_seed(4)
            seen = torch.nn.functional.dropout(x, 0.5)
        wanted = 2 * seen.double() @ a.t() @ b.t()
        kept.append(float(((out - base) * wanted).sum() / wanted.square().sum()))
    theirs, ours = kept
    assert theirs < 0.5, "this adapter is large enough for two roundings, so that the test shows nothing"
    assert ours == pytest.approx(1, abs=0.15)


def hooked(model):
    model.seen = []
    layer_of(model).lora_A["default"].register_forward_hook(lambda *_: model.seen.append(1))


def watched_base(model):
    layer_of(model).base_layer.register_forward_hook(watched(model))


def two_adapters(model):
    model.add_adapter("other", LoraConfig(r=3, target_modules=["part"]))
    model.base_model.set_adapter(["default", "other"])


def in_float64(model):
    for part in (layer_of(model).lora_A, layer_of(model).lora_B):
        part.double()


OTHERS = {  # what PEFT does itself -> how the adapter is made, what is done to it
    "DoRA": ({"use_dora": True}, lambda model: None),
    "a bias of its own": ({"bias": True, "lora_bias": True}, lambda model: None),
    "merged": ({}, lambda model: model.merge_adapter()),
    "switched off": ({}, lambda model: model.base_model.disable_adapter_layers()),
    "two adapters": ({}, two_adapters),
    "a hook": ({}, hooked),
    "a hook that reads the base": ({}, watched_base),
    "a trained base": ({}, lambda model: layer_of(model).base_layer.weight.requires_grad_(True)),
    "a trained bias": ({"bias": True}, lambda model: layer_of(model).base_layer.bias.requires_grad_(True)),
    "another type than the product": ({}, in_float64),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_it_does_not_do_is_left_to_peft(name):
    how, change = OTHERS[name]
    lora_bias = {"lora_bias": how["lora_bias"]} if "lora_bias" in how else {}
    how = {key: value for key, value in how.items() if key != "lora_bias"}
    outs = []
    for model in pair(**how, **lora_bias):
        change(model)
        torch.manual_seed(3)
        outs.append(model(torch.randn(6, 24)))
        if name == "a hook":
            assert model.seen == [1]
    assert torch.equal(*outs)
    assert name == "another type than the product" or layer_of(model)._only_adapter() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("way", WAYS)
def test_no_copy_of_the_weights_waits_for_the_backward_pass(way, dtype):
    """Numbers that are kept, other than weights, are of positions."""
    how, change = WAYS[way]
    _, model = pair(dtype=dtype, inner=512, **how)
    change(model)
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.randn(2, 512, dtype=dtype, requires_grad=True))
    assert sum(kept.values()) < layer_of(model).base_layer.weight.nbytes / 2


def test_dropout_of_nothing_is_none():
    _, model = pair(lora_dropout=0.5)
    layer_of(model).lora_dropout["default"].p = 0.0
    assert layer_of(model)._is_one_product("default")


def test_evaluation_of_an_adapter_with_dropout_rounds_once():
    theirs, ours = (model.eval() for model in pair(lora_dropout=0.5))
    x = torch.randn(6, 24)
    torch.testing.assert_close(theirs(x), ours(x))
    assert layer_of(ours)._is_one_product("default")


def kinds(model):
    return {type(part) for part in model.modules() if hasattr(part, "lora_A")}


def test_every_model_with_an_adapter_rounds_once(tmp_path):
    model = add_lora(SMALL.build(), LoRA(r=2))
    assert kinds(model) == {AdaptedLinear}
    assert kinds(copy.deepcopy(model)) == {AdaptedLinear}
    SMALL.build().save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    assert kinds(load_adapter(Pretrained(str(tmp_path / "base")).build(), tmp_path / "adapter")) == {AdaptedLinear}
    own = get_peft_model(SMALL.build(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert kinds(own) != {AdaptedLinear}
    AlignModule(own, DPO(), ["a"], Optimizer(lr=1e-3))
    assert kinds(own) == {AdaptedLinear}


def test_a_merged_model_has_the_numbers_of_its_adapter():
    model = add_lora(SMALL.build(), LoRA(r=2)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        before = model(ids).logits
        after = model.merge_and_unload()(ids).logits
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
    assert kinds(model) == set()


@pytest.mark.parametrize(("dtype", "copied"), [(torch.bfloat16, False), (torch.float32, True)])
def test_inputs_of_the_products_type_are_not_copied(dtype, copied):
    """Whoever else reads or made them keeps them as well."""
    _, ours = pair()
    x, kept = torch.randn(6, 24).to(dtype), set()
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.add(t.data_ptr()) or t, lambda t: t),
    ):
        ours(x)
    assert (x.data_ptr() not in kept) == copied

"""Norms and rotary embeddings by blocks: the same bits as all positions at once, and only where that is so."""

import sys

import numpy as np
import pytest
import torch

from mixalign.data.batches.collate import collate
from mixalign.data.batches.pack import pack
from mixalign.data.dataset import TaskDataset
from mixalign.frozen.score import score_rows
from mixalign.models import blocks
from mixalign.models.blocks import in_blocks
from mixalign.models.load import LoRA, add_lora
from mixalign.models.precision import autocast
from tests.models.families import FAMILIES

EVERY = {"input_layernorm", "post_attention_layernorm", "apply_rotary_pos_emb"}  # family has these
ALL = EVERY | {"norm"}
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")


def build(family: str):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FAMILIES[family]().eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.1 * torch.randn_like(weight)  # those of norms are all the same at first
    return model


def with_adapter(model):
    tuned = add_lora(model, LoRA(r=2)).eval()
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.1)
    return tuned


def table() -> TaskDataset:
    rng = np.random.default_rng(0)
    rows = []
    for number, lengths in enumerate([(5, 7, 40), (1, 1, 1), (70, 33, 64), (31, 32, 1), (64, 100, 3)]):
        prompt, *completions = (rng.integers(3, 60, n).astype(np.int32) for n in lengths)
        marks = [np.ones(len(part), bool) for part in completions]
        rows.append({"row_id": number, "prompt": prompt, "completions": completions, "supervised": marks})
    return TaskDataset.from_rows("t", rows, 2)


def chosen(model, precision: str = "bf16-mixed") -> set[str]:
    with torch.no_grad(), autocast(torch.device("cpu"), precision), in_blocks(model) as names:
        return set(names)


@pytest.mark.filterwarnings("ignore:Gemma2.*every position")
@pytest.mark.parametrize("adapter", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("family", "layout"),
    [(family, layout) for family in FAMILIES for layout in (collate, pack) if (family, layout) != ("gemma2", pack)],
)
def test_scores_are_those_of_all_positions_at_once(family, layout, precision, adapter, monkeypatch):
    monkeypatch.setattr(blocks, "CACHED", 32 * 48)  # several blocks of 48 positions, the last one short
    model = with_adapter(build(family)) if adapter else build(family)
    assert chosen(model, precision) >= EVERY
    found = score_rows(model, table(), {}, 3, layout, precision).logp_NS
    monkeypatch.setattr(blocks, "_kinds", lambda model: {})
    wanted = score_rows(model, table(), {}, 3, layout, precision).logp_NS
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_what_is_not_for_products_alone_keeps_its_type():
    """Qwen 3 rotates normed queries and keys, which autocast rounds afterwards."""
    assert chosen(build("llama")) == ALL
    assert chosen(build("qwen3")) == ALL
    assert chosen(build("qwen3"), "32-true") == ALL | {"q_norm", "k_norm"}


def test_the_model_is_as_before_afterwards():
    model = build("llama")
    family = sys.modules[type(model).__module__]
    rotary = family.apply_rotary_pos_emb

    @torch.no_grad()
    def stopped_within():
        with in_blocks(model):
            assert "forward" in vars(model.model.norm)
            assert family.apply_rotary_pos_emb is not rotary
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped_within()
    assert not any("forward" in vars(part) for part in model.modules())
    assert family.apply_rotary_pos_emb is rotary


def test_a_model_that_is_trained_meanwhile_has_the_same_gradients():
    """As in another thread: the rotary embedding is a function of the family, and not of one model."""
    read, trained = build("llama"), build("llama")
    ids = torch.arange(40)[None] % 60

    def gradient():
        trained.zero_grad()
        trained(input_ids=ids, labels=ids).loss.backward()
        return trained.model.layers[0].self_attn.q_proj.weight.grad.clone()

    wanted = gradient()
    with torch.no_grad(), in_blocks(read) as names:
        assert "apply_rotary_pos_emb" in names
        with torch.enable_grad():
            assert torch.equal(gradient(), wanted)


def test_compiled_parts_are_left_alone():
    model = build("llama")
    model.model.norm.forward = compiled = model.model.norm.forward
    with torch.no_grad(), in_blocks(model) as names:
        assert "norm" not in names
        assert model.model.norm.forward is compiled
    assert model.model.norm.forward is compiled


def test_a_norm_over_positions_is_left_alone():
    class WholeNorm(torch.nn.Module):
        def forward(self, x):
            return x / x.norm()

    model = build("llama")
    model.model.norm = WholeNorm()
    assert chosen(model) == ALL - {"norm"}


def test_a_model_that_does_not_take_tokens_alone_is_left_alone():
    model = build("llama")
    model.register_forward_pre_hook(lambda *_: 1 / 0)
    assert chosen(model) == set()

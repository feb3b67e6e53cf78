"""Which layers are chosen."""

import pytest

from mixalign.errors import MixalignError
from mixalign.influence.layers import chosen_layers


def test_all_linear_layers_but_the_head(llama):
    names = list(chosen_layers(llama(layers=2)))
    assert len(names) == 2 * 7
    assert not [n for n in names if "lm_head" in n]


def test_a_pattern_is_searched_in_names(llama):
    names = list(chosen_layers(llama(layers=2), r"layers\.1\.mlp"))
    assert names == [f"model.layers.1.mlp.{part}_proj" for part in ("gate", "up", "down")]


def test_adapters_are_layers_and_what_they_adapt_is_not(llama):
    names = list(chosen_layers(llama(lora=True)))
    assert len(names) == 2 * 7
    assert all("lora_A" in n or "lora_B" in n for n in names)


def test_frozen_layers_are_left_out(llama):
    model = llama()
    model.model.layers[0].mlp.requires_grad_(False)
    assert len(chosen_layers(model)) == 4


def test_no_match_names_what_there_is(llama):
    wanted = r"`influence.layers=mlpp` matches no .* There are 7: model.layers.0.self_attn.q_proj, .*down_proj\."
    with pytest.raises(MixalignError, match=wanted):
        chosen_layers(llama(), "mlpp")
    with pytest.raises(MixalignError, match="There are 0: none"):
        chosen_layers(llama().requires_grad_(False))

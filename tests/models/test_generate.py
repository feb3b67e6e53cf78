"""Generated answers: the model's own first choices, whatever else is in the batch, and up to where an answer ends."""

import numpy as np
import pytest
import torch

from mixalign.models.generate import generate_answers
from mixalign.models.load import LoRA, add_lora
from mixalign.models.tiny import TinyLlama

PROMPTS = [np.array(ids, np.int32) for ids in ([5, 6, 7], [9], [40, 41, 42, 43, 44, 45])]


@pytest.fixture(scope="module")
def model():
    return TinyLlama(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64).build()


def by_hand(model, prompt, new):
    ids = torch.tensor(prompt.astype(np.int64))[None]
    for _ in range(new):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    return ids[0, len(prompt) :].tolist()


def answers(model, ends=(), **more):
    return generate_answers(model, PROMPTS, pad=0, ends=ends, **{"max_new_tokens": 6} | more)


@torch.no_grad()
def test_first_choices_are_those_of_prompts_read_one_by_one(model):
    wanted = [by_hand(model, prompt, 6) for prompt in PROMPTS]
    for batch_size in (1, 2, 3):
        assert answers(model, batch_size=batch_size) == wanted


@torch.no_grad()
def test_answers_stop_before_the_token_that_ends_them(model):
    whole = answers(model)
    end = whole[0][2]
    wanted = [row[: row.index(end)] if end in row else row for row in whole]
    assert answers(model, ends=[end]) == wanted
    assert len(wanted[0]) <= 2


def test_draws_follow_the_seed_and_leave_random_numbers_alone(model):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = answers(model, temperature=1.0, seed=1)
    assert first == answers(model, temperature=1.0, seed=1)
    assert first != answers(model, temperature=1.0, seed=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_adapter_counts_and_weights_are_as_before_also_in_16_bits(model):
    import copy

    adapted = add_lora(copy.deepcopy(model), LoRA(r=2))
    assert answers(adapted) == answers(model)
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.5, generator=torch.Generator().manual_seed(0))
    before = {name: p for name, p in adapted.named_parameters()}
    changed = answers(adapted, precision="bf16-mixed")
    assert changed != answers(model, precision="bf16-mixed")
    after = dict(adapted.named_parameters())
    assert all(after[name] is p and p.dtype == torch.float32 for name, p in before.items())
    assert {name for name, p in after.items() if p.requires_grad} == {name for name in before if "lora" in name}


def test_settings_of_the_model_itself_do_not_count(model):
    wanted = answers(model)
    model.generation_config.repetition_penalty = 50.0
    try:
        assert answers(model) == wanted
        assert model.generation_config.repetition_penalty == 50.0
    finally:
        model.generation_config.repetition_penalty = 1.0

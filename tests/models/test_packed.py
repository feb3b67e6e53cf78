"""Packed batches against padded ones: the same log-probabilities and gradients, for several families."""

import copy

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from mixalign.data.batches.collate import collate
from mixalign.data.batches.pack import pack
from mixalign.data.dataset import TaskDataset
from mixalign.models import attention
from mixalign.models.forward import score_completions
from mixalign.models.load import LoRA, add_lora
from mixalign.training.engine import Engine, prepare_model
from mixalign.training.packing import why_not_packed
from mixalign.types import Segment, TokenRow
from tests.models.families import FAMILIES, GROUPED

PACKED = [name for name in FAMILIES if name != "gemma2"]  # its attention caps scores, which a pack does not
# tokens of prompt, chosen, rejected: ordinary, empty prompt, one of each, longer than the rounding, at its edge
LENGTHS = [(5, 7, 40), (0, 5, 6), (1, 1, 1), (70, 33, 64), (31, 32, 1), (64, 100, 3)]


def make_dataset(num_completions):
    rng = np.random.default_rng(0)
    rows = []
    for number, (prompt, *lengths) in enumerate(LENGTHS):
        completions = [rng.integers(3, 60, n) for n in lengths[:num_completions]]
        for completion in completions[1:]:
            completion[:1] = completions[0][:1]  # pairs that begin alike
        marks = [np.ones(len(c), bool) for c in completions]
        for mark in marks:
            mark[0] = prompt > 0  # nothing predicts the first token of a row without a prompt
            mark[2:3] = len(mark) < 50  # and some turns are not trained
        rows.append(
            TokenRow(row_id=number, prompt=rng.integers(3, 60, prompt), completions=completions, supervised=marks)
        )
    return TaskDataset.from_rows("task", rows, num_completions)


def build(family, lora=False):
    torch.manual_seed(0)
    model = FAMILIES[family]()
    if not lora:
        return model
    model = add_lora(model, LoRA(r=4))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model


def logps_and_gradients(model, batch):
    logp_BS = score_completions(model, batch).logp_BS
    (logp_BS * torch.linspace(-1, 1, logp_BS.numel()).view(logp_BS.shape)).sum().backward()
    return logp_BS.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("num_completions", [1, 2], ids=["sft", "dpo"])
@pytest.mark.parametrize("family", PACKED)
def test_packed_equals_padded(family, num_completions, lora):
    dataset = make_dataset(num_completions)
    model = build(family, lora)
    task_B, row_B = np.zeros(len(dataset), int), np.random.default_rng(1).permutation(len(dataset))
    padded = logps_and_gradients(copy.deepcopy(model), collate([dataset], task_B, row_B))
    packed = logps_and_gradients(copy.deepcopy(model), pack([dataset], task_B, row_B))
    torch.testing.assert_close(packed[0], padded[0], rtol=1e-5, atol=1e-5)
    assert packed[1].keys() == padded[1].keys()
    for name, grad in padded[1].items():
        assert float((packed[1][name] - grad).norm()) <= 1e-5 * float(grad.norm()) + 1e-7, name


def test_a_pair_costs_its_prompt_once_and_nothing_is_padded_between_rows():
    dataset = make_dataset(2)
    batch = pack([dataset], np.zeros(2, int), np.array([0, 3]))
    tokens = sum(LENGTHS[0]) + sum(LENGTHS[3])
    assert [s.length for s in batch["segments"]] == [5 + 7, 40, 70 + 33, 64]
    assert batch["segments"][1] == Segment(start=12, length=40, prefix_start=0, prefix_length=5)
    assert sum(s.length for s in batch["segments"]) == tokens
    assert batch["position_ids"][0, :52].tolist() == [*range(12), *range(5, 45)]
    assert batch["input_ids"].shape[1] % 128 == 0


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("family", PACKED)
def test_a_block_mask_says_what_the_segments_say(family, monkeypatch):
    """What a GPU runs, in values only: FlexAttention has no backward on a CPU. Some families share keys among heads."""
    dataset, model = make_dataset(2), build(family).eval()
    batch = pack([dataset], np.zeros(3, int), np.array([0, 1, 3]))
    with torch.no_grad():
        wanted = score_completions(model, batch).logp_BS
        monkeypatch.setattr(attention, "attention_plan", attention._block_mask)
        torch.testing.assert_close(score_completions(model, batch).logp_BS, wanted, rtol=1e-5, atol=1e-4)


def test_gradient_checkpointing_runs_the_same_attention_again():
    dataset = make_dataset(2)
    batch = pack([dataset], np.zeros(2, int), np.array([0, 3]))
    plain, saving = build("llama"), build("llama").train()
    assert prepare_model(saving, Engine(gradient_checkpointing=True), tokens=1.0)
    wanted, got = logps_and_gradients(plain, batch), logps_and_gradients(saving, batch)
    torch.testing.assert_close(got[0], wanted[0])
    for name, grad in wanted[1].items():
        torch.testing.assert_close(got[1][name], grad)


def test_a_model_that_was_packed_still_generates_as_before():
    dataset, model = make_dataset(2), build("llama").eval()
    prompt = torch.tensor([[5, 9, 14, 33, 8]])
    wanted = model.generate(prompt, max_new_tokens=12, do_sample=False)
    score_completions(model, pack([dataset], np.zeros(1, int), np.array([0])))
    assert model.config._attn_implementation == attention.PACKED
    assert torch.equal(model.generate(prompt, max_new_tokens=12, do_sample=False), wanted)


@pytest.mark.parametrize("family", PACKED)
def test_rotary_families_can_be_packed_and_are_left_alone(family):
    model = build(family)
    before = model.config._attn_implementation
    assert why_not_packed(model, 512) is None
    assert model.config._attn_implementation == before


def test_a_window_shorter_than_the_rows_is_refused():
    model = MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=64))
    assert why_not_packed(model, 64) is None
    assert "window of 64" in why_not_packed(model, 65)


def test_attention_dropout_is_no_reason():
    """It is off in training, and evaluations have none."""
    assert why_not_packed(LlamaForCausalLM(LlamaConfig(**GROUPED, attention_dropout=0.1)), 64) is None


def test_a_model_whose_numbers_change_is_refused():
    class Smeared(LlamaForCausalLM):
        """Adds the sum of all positions before, across rows, as a recurrent layer would."""

        def __init__(self, config):
            super().__init__(config)
            self.model.norm.register_forward_hook(lambda module, args, out: out + out.cumsum(1))

    assert "differ" in why_not_packed(Smeared(LlamaConfig(**GROUPED)), 64)

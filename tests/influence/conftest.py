"""Rows of random words over a small vocabulary, and small Llamas that read them."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mixalign.data.dataset import TaskDataset
from mixalign.models.load import LoRA, add_lora
from mixalign.types import TokenRow

VOCAB = 24
# tokens of prompt, chosen, rejected: ordinary, no prompt, one of each, a longer second completion
LENGTHS = [(3, 4, 6), (0, 5, 4), (1, 1, 1), (6, 2, 7), (2, 5, 1)]


def make_table(task="task", num_completions=1, lengths=LENGTHS, seed=0, seen_from=3) -> TaskDataset:
    """Random words from `seen_from` on; the third token of long completions is not supervised."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, (prompt, *sizes) in enumerate(lengths):
        completions = [rng.integers(seen_from, VOCAB, n) for n in sizes[:num_completions]]
        marks = [np.ones(len(c), bool) for c in completions]
        for mark in marks:
            mark[0] = prompt > 0  # nothing predicts the first token of a row without a prompt
            mark[2:3] = False
        words = rng.integers(seen_from, VOCAB, prompt)
        rows.append(TokenRow(row_id=number, prompt=words, completions=completions, supervised=marks))
    table = TaskDataset.from_rows(task, rows, num_completions)
    if num_completions == 2:
        table.attach("reference_logp", -rng.random((len(table), 2)) * 10)
    return table


def all_of(size_M, seed):
    """All rows for `few_of`, which chooses a quarter of them."""
    return np.arange(len(size_M)), np.full(len(size_M), 1 / len(size_M))


def make_model(lora=False, dtype=torch.float32, layers=1, seed=0):
    """A Llama of one layer, 8 wide; adapters are away from their start, where half of the gradients are 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32,
            tie_word_embeddings=False,
        )
        model = LlamaForCausalLM(config)
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.4)
        if lora:
            model = add_lora(model, LoRA(r=2, lora_dropout=0.3))
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(weight, std=0.3)
    return model.to(dtype)


@pytest.fixture(scope="session")
def table():
    return make_table


@pytest.fixture(scope="session")
def llama():
    return make_model

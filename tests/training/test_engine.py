"""Choices of the engine: layout by model and rows, micro-batches by tokens, precision by width."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers.models.llama import modeling_llama

from mixalign.data.batches.collate import collate
from mixalign.data.batches.loader import MixtureLoader
from mixalign.data.batches.pack import pack
from mixalign.data.batches.sampler import MixtureSampler
from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.losses import linear_logprobs
from mixalign.models.forward import score_completions
from mixalign.training.engine import Engine, choose_layout, choose_precision, prepare_model, rows_within
from mixalign.types import TokenRow
from tests.models.families import SIZE


def table(*lengths):
    """Rows of one completion with a prompt of one token; `lengths` counts both."""
    rng = np.random.default_rng(0)
    rows = []
    for n, length in enumerate(lengths):
        ids = rng.integers(3, 60, length - 1)
        rows.append(TokenRow(row_id=n, prompt=np.array([1]), completions=[ids], supervised=[np.ones(length - 1, bool)]))
    return TaskDataset.from_rows("task", rows, 1)


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZE))


def test_long_rows_are_packed_and_short_ones_padded():
    assert choose_layout(Engine(), llama(), [table(100, 200)]) is pack
    assert choose_layout(Engine(layout="padded"), llama(), [table(100, 200)]) is collate
    assert choose_layout(Engine(layout="packed"), llama(), [table(5, 6)]) is pack
    if not torch.cuda.is_available():
        assert choose_layout(Engine(), llama(), [table(5, 6)]) is collate


def test_a_family_that_cannot_be_packed_is_padded_and_named(caplog):
    model = MistralForCausalLM(MistralConfig(**SIZE, num_key_value_heads=4, sliding_window=64))
    assert choose_layout(Engine(), model, [table(100, 200)]) is collate
    assert "window of 64 tokens" in caplog.text
    with pytest.raises(MixalignError, match=r"layout=packed.*window of 64"):
        choose_layout(Engine(layout="packed"), model, [table(100, 200)])


@pytest.mark.parametrize(
    ("max_tokens", "rows"),
    # 8 rows of 10 tokens: all of them are 80; 4 of them are 40, and one row more is allowed for
    [(1000, 8), (80, 4), (50, 4), (49, 2), (30, 2), (29, 1), (10, 1)],
)
def test_rows_within_a_token_budget(max_tokens, rows):
    assert rows_within(max_tokens, [table(*[10] * 20)], batch_size=8) == rows


def test_a_row_longer_than_the_budget_is_refused():
    with pytest.raises(MixalignError, match=r"`engine.max_tokens` is 9, but the longest row has 10 tokens"):
        rows_within(9, [table(10, 10)], batch_size=2)


def test_micro_batches_get_about_as_many_tokens_and_each_row_once():
    dataset = table(*range(2, 66))
    whole = next(iter(MixtureLoader([dataset], MixtureSampler([64], 32), 1)))
    parts = list(MixtureLoader([dataset], MixtureSampler([64], 32), 1, accumulate=4))
    tokens = [int(part["num_tokens_BS"].sum()) for part in parts]
    assert sorted(torch.cat([part["row_id_B"] for part in parts]).tolist()) == sorted(whole["row_id_B"].tolist())
    assert max(tokens) - min(tokens) <= 65
    assert max(tokens) - min(tokens) < 0.15 * sum(tokens) / 4


def test_precision_is_left_alone_unless_it_is_auto():
    assert choose_precision("16-mixed", llama()) == "16-mixed"
    if not torch.cuda.is_available():
        assert choose_precision("auto", llama()) == "32-true"  # 32 wide: too narrow for bfloat16 to pay


def test_compilation_is_for_long_trainings():
    assert prepare_model(llama(), Engine(), tokens=1e6) == []
    assert prepare_model(llama(), Engine(compile=False), tokens=1e15) == []


def test_gradient_checkpointing_is_for_training():
    model = llama()
    assert prepare_model(model, Engine(gradient_checkpointing=True), tokens=1.0, training=False) == []
    assert not model.is_gradient_checkpointing
    assert prepare_model(model, Engine(gradient_checkpointing=True), tokens=1.0) == ["gradient checkpointing"]
    assert model.is_gradient_checkpointing


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_compiled_layers_give_the_same_numbers(monkeypatch):
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", modeling_llama.apply_rotary_pos_emb)  # put back later
    monkeypatch.setattr(linear_logprobs, "_KERNELS", dict(linear_logprobs._KERNELS))
    dataset = table(40, 70)
    batch = pack([dataset], np.zeros(2, int), np.arange(2))
    model = llama()
    before = score_completions(model, batch).logp_BS.detach()
    assert prepare_model(model, Engine(compile=True), tokens=1.0) == ["layers compiled"]
    torch.testing.assert_close(score_completions(model, batch).logp_BS.detach(), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("setting", "value"), [("layout", "tight"), ("compile", "yes"), ("head", "liger")])
def test_unknown_words_are_refused(setting, value):
    with pytest.raises(MixalignError, match=f"`engine.{setting}` is '{value}'"):
        Engine(**{setting: value})

"""Completion scores of several families against one plain forward pass for each completion, unpadded."""

import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mixalign.data.batches.collate import collate
from mixalign.data.dataset import TaskDataset
from mixalign.models.forward import score_completions
from mixalign.models.load import LoRA, add_lora
from mixalign.types import TokenRow

VOCAB = 48
SHAPE = {"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
WIDE = {"initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

FAMILIES = {
    "llama with grouped queries": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, **HEADS, **WIDE)),
    "llama with tied embeddings": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, **HEADS, **WIDE, tie_word_embeddings=True)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, **HEADS, **WIDE, head_dim=8, tie_word_embeddings=False)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE, **WIDE, num_attention_heads=4)),
    "gemma2 with capped logits": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, **HEADS, **WIDE, head_dim=8, final_logit_softcapping=2.0, attn_implementation="eager")
    ),
}
CAPPED = "gemma2 with capped logits"


def build(family: str, seed: int = 0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FAMILIES[family]().eval()


def with_adapter(model, **settings):
    """A LoRA adapter that has moved away from zero."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*tie_word_embeddings.*")
        tuned = add_lora(model, LoRA(r=2, lora_alpha=4, **settings)).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=generator)
    return tuned


def table(*rows: tuple[list[int], list[list[int]], list[list[bool]]]) -> TaskDataset:
    """Rows of (prompt, completions, supervised)."""
    built = [
        TokenRow(
            row_id=n,
            prompt=np.array(prompt, np.int32),
            completions=[np.array(one, np.int32) for one in completions],
            supervised=[np.array(one, bool) for one in supervised],
        )
        for n, (prompt, completions, supervised) in enumerate(rows)
    ]
    return TaskDataset.from_rows("t", built, len(rows[0][1]))


PAIRS = table(
    ([1, 5, 9, 30, 7], [[11, 12, 2], [13, 2]], [[True] * 3, [True] * 2]),
    # one token of prompt, the longest and the shortest answer
    ([1], [list(range(3, 17)), [2]], [[True] * 14, [True]]),
    # no prompt: nothing predicts the first token
    ([], [[1, 20, 21, 2], [1, 22, 2]], [[False, True, True, True], [False, True, True]]),
    # turns of others within a completion
    ([1, 40, 41], [[3, 4, 5, 6, 7, 2], [8, 9, 2]], [[True, False, False, True, True, True], [True, False, True]]),
)


def batch_of(dataset: TaskDataset, *rows: int, pad_id: int = 0):
    chosen = np.array(rows or range(len(dataset)))
    return collate([dataset], np.zeros_like(chosen), chosen, pad_id=pad_id)


def naive(model, dataset: TaskDataset) -> torch.Tensor:
    """Summed log-probabilities (N, S), each completion by itself, from the logits of every position."""
    out = []
    for row in (dataset[n] for n in range(len(dataset))):
        for completion, supervised in zip(row["completions"], row["supervised"], strict=True):
            ids = torch.tensor([*row["prompt"].tolist(), *completion.tolist()])
            logp_TV = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
            places = len(row["prompt"]) + np.flatnonzero(supervised)
            out.append(sum(logp_TV[place - 1, ids[place]] for place in places))
    return torch.stack(out).view(len(dataset), -1)


def expect_fallback(family: str):
    return pytest.warns(UserWarning, match="Gemma2.*every position") if family == CAPPED else nullcontext()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", [False, True], ids=["plain", "lora"])
def test_scores_are_those_of_one_pass_a_completion(family, adapter):
    model = with_adapter(build(family)) if adapter else build(family)
    with expect_fallback(family):
        found = score_completions(model, batch_of(PAIRS)).logp_BS
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, naive(model, PAIRS).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", [False, True], ids=["plain", "lora"])
def test_gradients_are_those_of_one_pass_a_completion(family, adapter):
    model = with_adapter(build(family)) if adapter else build(family)
    weight_BS = torch.tensor([[1.0, -1.0], [0.5, 2.0], [-0.7, 0.3], [0.1, -0.2]])
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wanted = torch.autograd.grad((naive(model, PAIRS) * weight_BS).sum(), list(trained.values()))
    with expect_fallback(family):
        scores = score_completions(model, batch_of(PAIRS)).logp_BS
    found = torch.autograd.grad((scores * weight_BS).sum(), list(trained.values()))
    largest = max(float(g.abs().max()) for g in wanted)
    assert largest > 0.1
    for name, ours, theirs in zip(trained, found, wanted, strict=True):
        assert float((ours - theirs).abs().max()) < 1e-5 * largest, name


def test_an_adapter_on_the_head_counts():
    model = with_adapter(build("llama with grouped queries"), target_modules=["q_proj", "lm_head"])
    found = score_completions(model, batch_of(PAIRS)).logp_BS
    torch.testing.assert_close(found, naive(model, PAIRS).double(), rtol=1e-5, atol=1e-5)
    with model.disable_adapter():
        off = score_completions(model, batch_of(PAIRS)).logp_BS
    base = score_completions(build("llama with grouped queries"), batch_of(PAIRS)).logp_BS
    assert off.equal(base)
    assert (found - off).abs().min() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_neighbours_change_nothing(family):
    model = build(family)
    with expect_fallback(family):
        together = score_completions(model, batch_of(PAIRS)).logp_BS
    other_pad = score_completions(model, batch_of(PAIRS, pad_id=33)).logp_BS
    assert other_pad.equal(together)  # no real token sees what the padding is
    alone = torch.cat([score_completions(model, batch_of(PAIRS, n)).logp_BS for n in range(len(PAIRS))])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    wider = batch_of(PAIRS)
    width, extra = wider["input_ids"].shape[1], 9
    place_N = wider["predict_N"]
    wider["input_ids"] = torch.nn.functional.pad(wider["input_ids"], (0, extra), value=17)
    wider["predict_N"] = place_N // width * (width + extra) + place_N % width
    torch.testing.assert_close(score_completions(model, wider).logp_BS, together, rtol=1e-5, atol=1e-5)


def test_correct_tokens_are_counted_by_completion():
    model = build("llama with grouped queries")
    row = PAIRS[0]
    first = model(input_ids=torch.tensor(row["prompt"].tolist())[None]).logits[0, -1].argmax().item()
    hit = table((row["prompt"].tolist(), [[first], [(first + 1) % VOCAB]], [[True], [True]]))
    found = score_completions(model, batch_of(hit), count_correct=True)
    assert found.correct_BS.tolist() == [[1, 0]]
    assert score_completions(model, batch_of(hit)).correct_BS is None
    many = score_completions(model, batch_of(PAIRS), count_correct=True)
    assert (many.correct_BS <= batch_of(PAIRS)["num_tokens_BS"]).all()


def test_the_fallback_is_said_once_a_model():
    model = build(CAPPED)
    with pytest.warns(UserWarning, match="slower and with more memory"):
        score_completions(model, batch_of(PAIRS, 0))
    score_completions(model, batch_of(PAIRS, 0))  # a second warning would be an error here


def test_small_logits_do_not_hide_that_they_are_capped():
    # tanh is nearly the identity on a fresh model's logits, but not on those that it will have after training
    config = Gemma2Config(**SHAPE, **HEADS, head_dim=8, final_logit_softcapping=2.0, attn_implementation="eager")
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 0.1
    with pytest.warns(UserWarning, match="Gemma2.*every position"):
        score_completions(model, batch_of(PAIRS, 0))


class Halved(LlamaForCausalLM):
    """Scales the hidden states on their way to the head, as some families do."""

    def forward(self, **inputs):
        hook = self.lm_head.register_forward_pre_hook(lambda head, hidden: (hidden[0] / 2,))
        with hook:
            return super().forward(**inputs)


def test_a_scale_before_the_head_is_noticed():
    model = Halved(LlamaConfig(**SHAPE, **HEADS, **WIDE)).eval()
    with pytest.warns(UserWarning, match="Halved changes its logits"):
        found = score_completions(model, batch_of(PAIRS)).logp_BS
    torch.testing.assert_close(found, naive(model, PAIRS).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != CAPPED])
def test_16_bits_need_no_fallback(family):
    model = build(family)
    wanted = score_completions(model, batch_of(PAIRS)).logp_BS
    found = score_completions(build(family).to(torch.bfloat16), batch_of(PAIRS)).logp_BS  # a warning would be an error
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=1.0)


def test_training_mode_is_left_as_it_was():
    model = build("llama with grouped queries").train()
    score_completions(model, batch_of(PAIRS, 0))
    assert all(part.training for part in model.modules())

"""What a training takes by an estimate, against what its forward pass keeps; and what is free."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig, OPTConfig, Qwen3Config

from mixalign.data.batches.collate import collate
from mixalign.data.batches.pack import pack
from mixalign.data.dataset import TaskDataset
from mixalign.models.forward import score_completions
from mixalign.models.load import LoRA, add_lora
from mixalign.models.shapes import Shapes
from mixalign.training.engine import Engine
from mixalign.training.memory import footprint, free_memory, most_tokens, tokens_of_longest

WIDE = 128
SIZE = {"hidden_size": WIDE, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 512}
LLAMA = {**SIZE, "intermediate_size": 3 * WIDE, "num_key_value_heads": 2}
FAMILIES = {
    "llama": LlamaConfig(**LLAMA),
    "qwen3": Qwen3Config(**LLAMA, head_dim=32),
    "mixtral": MixtralConfig(**LLAMA, num_local_experts=4, num_experts_per_tok=2),
    "gpt2": GPT2Config(**SIZE, bos_token_id=0, eos_token_id=0, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0),
    "opt": OPTConfig(**SIZE, ffn_dim=4 * WIDE, word_embed_proj_dim=WIDE, dropout=0),
}


def table(*lengths: tuple[int, int, int]) -> TaskDataset:
    """Rows of a prompt and two answers with so many tokens."""
    rows = [
        {
            "prompt": np.full(prompt, 3, np.int32),
            "completions": [np.full(n, 4, np.int32) for n in answers],
            "supervised": [np.ones(n, bool) for n in answers],
            "row_id": number,
        }
        for number, (prompt, *answers) in enumerate(lengths)
    ]
    return TaskDataset.from_rows("a", rows, 2)


def kept(model, batch) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights not counted."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    seen = {}

    def look(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = tensor  # held, so that no other one gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        out = score_completions(model, batch)
    assert out.logp_BS.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


@pytest.mark.parametrize("lora", [None, LoRA(r=16)], ids=["all weights", "adapter"])
@pytest.mark.parametrize(("layout", "attention"), [(collate, "sdpa"), (collate, "eager"), (pack, "sdpa")])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # of peft
@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_is_above_what_is_kept_and_not_far(family, layout, attention, lora):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family], attn_implementation=attention)
    takes = footprint(Shapes.of(model), lora, Engine(), "cpu", longest=90)
    batch = layout([table(*[(60, 30, 30)] * 6)], np.zeros(6, int), np.arange(6))
    measured = kept(add_lora(model, lora), batch)
    assert measured < takes.token * batch["input_ids"].numel() < 5 * measured


def peak(model, batch) -> int:
    """Most bytes that tensors have at once in a step, beside the weights and their gradients."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    with torch.profiler.profile(profile_memory=True) as watched:
        torch.autograd.grad(-score_completions(model, batch).logp_BS.sum(), weights)
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most - sum(weight.nbytes for weight in weights)


@pytest.mark.parametrize("lora", [None, LoRA(r=16, lora_dropout=0.1)], ids=["all weights", "with dropout"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")  # of peft
def test_the_estimate_has_room_above_the_peak(family, lora):
    """A process has taken up to 1.4 times what its tensors had: allocators cannot use all that they hold."""
    model = AutoModelForCausalLM.from_config(FAMILIES[family])
    takes = footprint(Shapes.of(model), lora, Engine(), "cpu", longest=90)
    batch = pack([table(*[(60, 30, 30)] * 16)], np.zeros(16, int), np.arange(16))
    measured = peak(add_lora(model, lora), batch)
    assert measured > 10**7
    assert takes.token * batch["input_ids"].numel() > 1.4 * measured


@pytest.mark.parametrize("lora", [None, LoRA(r=4), LoRA(r=4, modules_to_save=["lm_head"])])
def test_all_that_is_trained_is_counted(lora):
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"])
    takes = footprint(Shapes.of(model), lora, Engine(), "cpu", longest=8)
    trained = [weight.numel() for weight in add_lora(model, lora).parameters() if weight.requires_grad]
    assert sum(trained) <= takes.trained <= 1.5 * sum(trained)
    assert takes.fixed > 4 * sum(weight.numel() for weight in model.parameters()) + 12 * sum(trained)


def test_what_lowers_memory_lowers_the_estimate():
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"])
    plain = footprint(Shapes.of(model), None, Engine(), "cpu", longest=8)
    again = footprint(Shapes.of(model), None, Engine(gradient_checkpointing=True), "cpu", longest=8)
    adapter = footprint(Shapes.of(model), LoRA(r=4), Engine(), "cpu", longest=8)
    twice = footprint(Shapes.of(model), None, Engine(), "cpu", longest=8, copies=2)
    assert again.token < 0.6 * plain.token
    assert adapter.fixed < plain.fixed < twice.fixed
    assert plain.reading(100) < plain.training(100) < plain.training(200)
    assert plain.head < footprint(Shapes.of(model), None, Engine(), "cuda", longest=8).head, "a GPU's chunks are larger"


def test_weights_in_4_bits_count_by_their_layers():
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"])
    before = footprint(Shapes.of(model), LoRA(), Engine(), "cpu", longest=8)
    for part in model.modules():
        if isinstance(part, torch.nn.Linear) and part is not model.lm_head:  # as bitsandbytes stores them
            packed = torch.zeros(part.weight.numel() // 2, 1, dtype=torch.uint8)
            part.weight = torch.nn.Parameter(packed, requires_grad=False)
    after = footprint(Shapes.of(model), LoRA(), Engine(), "cpu", longest=8)
    assert (after.token, after.trained) == (before.token, before.trained)
    assert after.fixed < before.fixed


def test_tokens_of_a_forward_pass():
    even, long = table(*[(10, 20, 10)] * 8), table((50, 30, 10), *[(5, 5, 5)] * 7)
    assert tokens_of_longest(pack, [even, long], 1) == 128, "rounded up as packs are"
    assert tokens_of_longest(pack, [even], 8) == 384, "320 tokens"
    assert tokens_of_longest(collate, [even, long], 4) == 4 * 2 * 80, "as wide as the longest answer"
    assert most_tokens(pack, [even], 8, 8) == 384
    assert most_tokens(pack, [even, long], 8, 1) >= 90
    assert most_tokens(collate, [long], 8, 2) == 2 * 2 * 80
    several = [most_tokens(pack, [even, long], 8, rows) for rows in (1, 2, 4, 8)]
    assert several == sorted(several)


HOST = "MemTotal: 64000000 kB\nMemAvailable:   8000000 kB\nBuffers: 1 kB"


@pytest.mark.parametrize(
    ("own", "files", "wanted"),
    [
        ("", {}, 8_192_000_000),
        ("0::/", {"memory.max": "max", "memory.current": "5"}, 8_192_000_000),
        ("0::/", {"memory.max": "3000", "memory.current": "1000"}, 2000),
        ("0::/", {"memory.max": "3000", "memory.current": "2500", "memory.stat": "anon 1\ninactive_file 400"}, 900),
        ("0::/a/b", {"a/memory.max": "3000", "a/memory.current": "500", "a/b/memory.max": "max"}, 2500),
        ("4:memory:/a", {"memory/a/memory.limit_in_bytes": "700", "memory/a/memory.usage_in_bytes": "200"}, 500),
        ("0::/", {"memory.max": "3000", "memory.current": "4000"}, 0),
        ("0::/gone", {"memory.max": "3000", "memory.current": "x"}, 8_192_000_000),
    ],
)
def test_free_memory_of_a_cpu_is_that_of_the_tightest_limit(tmp_path, own, files, wanted):
    (tmp_path / "meminfo").write_text(HOST)
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert free_memory("cpu", tmp_path / "meminfo", tmp_path / "own", tmp_path / "groups") == wanted


def test_free_memory_where_the_system_does_not_tell(tmp_path):
    assert free_memory("cpu", tmp_path / "none") is None


def test_free_memory_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(mem_get_info=lambda: (5, 9)))
    assert free_memory("cuda") == 5

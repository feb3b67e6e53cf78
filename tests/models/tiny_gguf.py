"""A Llama of a few thousand weights as a GGUF file, written with the library that llama.cpp keeps for it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
OF_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def tiny_llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=264, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False, rope_theta=10000.0,
        )
    )  # fmt: skip


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    *,
    template: str | None = TEMPLATE,
    arch: str = "llama",
    tokens: int = 264,
    general: Mapping[str, str] | None = None,
) -> Path:
    """Writes the file; matrices in blocks of 8 bits, so that loading has something to take apart.

    Args:
        tokens: of the tokenizer.
        general: metadata on where the model comes from.
    """
    config = model.config
    writer = GGUFWriter(path, arch)
    for name, text in (general or {}).items():
        writer.add_string(f"general.{name}", text)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    words = [*SPECIAL, *bytes_to_unicode().values(), "th", "in"]
    words += [f"<unused{n}>" for n in range(tokens - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word in SPECIAL else 1 for word in words])
    writer.add_token_merges(["t h", "i n"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    if template:
        writer.add_chat_template(template)
    for name, tensor in model.state_dict().items():
        value, kind = tensor.numpy(), GGMLQuantizationType.F32
        if value.ndim == 2:
            value, kind = quantize(_permuted(name, value, config), GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0
        writer.add_tensor(_theirs(name), value, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _theirs(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, *part = name.split(".")
    return f"blk.{layer}.{OF_LAYER['.'.join(part[:-1])]}.weight"


def _permuted(name: str, value: np.ndarray, config: LlamaConfig) -> np.ndarray:
    """Queries and keys in llama.cpp's order: pairs that are rotated together lie beside each other."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return value
    halves = value.reshape(heads, 2, value.shape[0] // heads // 2, value.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(value.shape))

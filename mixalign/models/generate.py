"""Answers that a model writes, many prompts at a time."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from mixalign.models.precision import MIXED, autocast, cast_weights

__all__ = ["generate_answers"]


def generate_answers(
    model: Any,
    prompts: Sequence[np.ndarray],
    *,
    pad: int,
    ends: Sequence[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
    precision: str = "32-true",
    on_batch: Callable[[int], None] = lambda prompts: None,
) -> list[list[int]]:
    """Token ids of one answer a prompt, without the token that ends it; in evaluation mode.

    Args:
        model: a causal LM of transformers, with or without PEFT adapters; its own settings of generation are not used.
        prompts: int (T,) each.
        pad: fills prompts on the left, where nothing reads it.
        ends: tokens at which an answer ends.
        temperature: of the draws; 0: the first choice every time.
        seed: of the draws.
        batch_size: prompts of one batch; longest first, so that a batch has prompts of a length.
        precision: Lightning's, as in training; the weights are converted in place where it is theirs.
        on_batch: called with the number of prompts done, for a progress bar.
    """
    cast_weights(model, precision).eval()
    core = model.get_base_model() if hasattr(model, "get_base_model") else model  # with the adapters' layers inside
    device = next(model.parameters()).device
    config = _settings(pad, ends, max_new_tokens, temperature)
    order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
    answers: list[list[int]] = [[] for _ in prompts]
    kept = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with kept, _own_settings(core), _cast(core, precision):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            torch.manual_seed(_seed(seed, [prompts[n] for n in batch]))
            ids_BT, mask_BT = (x.to(device) for x in _left_padded([prompts[n] for n in batch], pad))
            with autocast(device, precision):
                out_BT = core.generate(input_ids=ids_BT, attention_mask=mask_BT, generation_config=config)
            for n, row in zip(batch, out_BT[:, ids_BT.shape[1] :].tolist(), strict=True):
                answers[n] = _until_end(row, ends)
            on_batch(len(batch))
    return answers


def _seed(seed: int, prompts: Sequence[np.ndarray]) -> int:
    """Of the draws for a batch: the same whichever process draws them."""
    return zlib.crc32(np.concatenate(prompts).tobytes(), seed & 0xFFFFFFFF)


def _settings(pad: int, ends: Sequence[int], max_new_tokens: int, temperature: float) -> GenerationConfig:
    drawn = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    basic = {"max_new_tokens": max_new_tokens, "eos_token_id": list(ends) or None, "pad_token_id": pad}
    return GenerationConfig(do_sample=temperature > 0, use_cache=True, **basic, **drawn)


def _left_padded(prompts: Sequence[np.ndarray], pad: int) -> tuple[Tensor, Tensor]:
    """Prompts that end together (B, T), and where they are."""
    longest = max(map(len, prompts))
    ids_BT = torch.full((len(prompts), longest), pad)
    mask_BT = torch.zeros_like(ids_BT)
    for b, prompt in enumerate(prompts):
        ids_BT[b, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        mask_BT[b, longest - len(prompt) :] = 1
    return ids_BT, mask_BT


def _until_end(row: list[int], ends: Sequence[int]) -> list[int]:
    return row[: next((t for t, token in enumerate(row) if token in ends), len(row))]


@contextmanager
def _own_settings(core: Any) -> Iterator[None]:
    """Without the model's own settings of generation, which transformers puts where ours say nothing."""
    before, core.generation_config = core.generation_config, GenerationConfig()
    try:
        yield
    finally:
        core.generation_config = before


@contextmanager
def _cast(model: nn.Module, precision: str) -> Iterator[None]:
    """Matrices in the type in which autocast multiplies them: else it would convert all of them for every token."""
    dtype = MIXED.get(precision)
    linear = [part for part in model.modules() if dtype and isinstance(part, nn.Linear)]
    before = [(part, name, p) for part in linear for name, p in part.named_parameters(recurse=False)]
    for part, name, p in before:
        setattr(part, name, nn.Parameter(p.data.to(dtype), requires_grad=False))
    try:
        yield
    finally:
        for part, name, p in before:
            setattr(part, name, p)

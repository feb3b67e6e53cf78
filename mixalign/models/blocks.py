"""Frozen models read with fewer trips to memory: norms and rotary embeddings go by blocks of positions.

torch computes them in several passes over all positions of a batch, each of which takes its numbers from memory and
puts them back, and autocast converts what a norm gives once for every product that it goes into. Here a block stays in
the CPU's cache from the first pass to the last, and is written once, in the type of the products.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from mixalign.losses.linear_logprobs import CACHED, compute_dtype

__all__ = ["in_blocks"]

ROTARY = "apply_rotary_pos_emb"  # in the module of each family of transformers
TRIED, TRIED_ROWS = 20, 8  # positions of the look at a model, and of its blocks

Kinds = dict[str, list[tuple[Any, str, Callable[..., Any]]]]
"""Of each kind: objects, the name of their function, and what makes one by blocks of it, given the most rows of one."""


@contextmanager
def in_blocks(model: nn.Module) -> Iterator[list[str]]:
    """Within, a model in evaluation mode gives the same numbers in less time, on a CPU and without gradients.

    Each kind of norm, and the rotary embedding, is tried on a few tokens in the autocast of the caller. One that
    changes any bit of their logits stays as it is: it mixes positions, or what it gives is not for products alone.
    The value is the names of those that go by blocks, such as `input_layernorm`. The rotary embedding is that of all
    models of a family: one that is trained meanwhile, in another thread, computes it as ever.
    """
    kinds = _kinds(model) if next(model.parameters()).device.type == "cpu" else {}
    usual = _logits(model) if kinds else None
    if usual is None:
        kinds = {}
    elif not _equal(model, kinds, usual):
        kinds = {name: places for name, places in kinds.items() if _equal(model, {name: places}, usual)}
        kinds = kinds if _equal(model, kinds, usual) else {}
    with _by_blocks(kinds, CACHED):
        yield [*kinds]


def _kinds(model: nn.Module) -> Kinds:
    """What could go by blocks, by the names that the layers give it; what is compiled has one pass already."""
    kinds: Kinds = {}
    for path, part in model.named_modules():
        if "Norm" in type(part).__name__ and "forward" not in vars(part):
            kinds.setdefault(path.rpartition(".")[2], []).append((part, "forward", _norm))
    for family in sorted({type(part).__module__ for part in model.modules()}):
        rotary = getattr(sys.modules.get(family), ROTARY, None)
        if rotary is not None and not hasattr(rotary, "_torchdynamo_orig_callable"):
            kinds.setdefault(ROTARY, []).append((sys.modules[family], ROTARY, _rotary))
    return kinds


def _logits(model: Any) -> Tensor | None:
    """Those of a few tokens; None where the model does not take tokens alone."""
    try:
        ids = torch.arange(TRIED)[None] % model.config.get_text_config().vocab_size
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    except Exception:  # any family may fail in its own way; it is then read as it is
        return None
    return logits


def _equal(model: nn.Module, kinds: Kinds, usual: Tensor) -> bool:
    with _by_blocks(kinds, TRIED_ROWS):
        logits = _logits(model)
    return logits is not None and torch.equal(logits, usual)


@contextmanager
def _by_blocks(kinds: Kinds, most: int) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, made in chain.from_iterable(kinds.values()):
            kept = vars(owner).get(name)
            stack.callback(partial(delattr, owner, name) if kept is None else partial(setattr, owner, name, kept))
            setattr(owner, name, made(getattr(owner, name), most))
        yield


def _norm(theirs: Callable[..., Any], most: int) -> Callable[..., Any]:
    def norm(*args: Any, **further: Any) -> Any:
        if len(args) != 1 or further or torch.is_grad_enabled():
            return theirs(*args, **further)
        x = args[0]
        out = torch.empty(x.shape, dtype=compute_dtype(x))
        rows = _rows(x.shape[-1], most)
        for into, block in zip(out.flatten(0, -2).split(rows), x.flatten(0, -2).split(rows), strict=True):
            into.copy_(theirs(block))
        return out

    return norm


def _rotary(theirs: Callable[..., Any], most: int) -> Callable[..., Any]:
    """Of queries and keys (B, A, T, D), with cosines and sines (1 or B, T, D)."""

    def rotary(*args: Any, **further: Any) -> Any:
        dims = [x.dim() if isinstance(x, Tensor) else 0 for x in args]
        if further or dims != [4, 4, 3, 3] or torch.is_grad_enabled():
            return theirs(*args, **further)
        rows = _rows(args[0].numel() // args[0].shape[2], most)
        outs = [torch.empty_like(x, dtype=compute_dtype(x)) for x in args[:2]]
        for q_out, k_out, *block in zip(*(x.split(rows, x.dim() - 2) for x in (*outs, *args)), strict=True):
            q, k = theirs(*block)
            q_out.copy_(q)
            k_out.copy_(k)
        return outs[0], outs[1]

    return rotary


def _rows(width: int, most: int) -> int:
    return max(1, min(most, CACHED // width))

"""Attention over packed batches, registered with transformers as the implementation `mixalign_packed`.

T packed positions, A heads, D head size; or C heads of keys and values, with G heads of queries each. The positions of
a segment attend causally to each other, and to all of the segment's prefix. A plan says so to the layers: the segments
themselves on a CPU, a block mask of them elsewhere.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from mixalign.types import Segment

__all__ = ["PACKED", "Plan", "attention_plan", "use_packed_attention"]

PACKED = "mixalign_packed"
Plan = list[Segment] | BlockMask


def attention_plan(segments: list[Segment], num_positions: int, device: torch.device) -> Plan:
    """What every layer of one forward pass is told about a packed batch; made once for all of them."""
    return segments if device.type == "cpu" else _block_mask(segments, num_positions, device)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Plan | None = None,
    **further: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (1, A, T, D), key and value (1, A or fewer, T, D) -> (1, T, A, D).

    Without segments, as when the model generates, it is transformers' own `sdpa`.
    """
    if segments is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **further
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings leave float32 under autocast
    if isinstance(segments, BlockMask):
        out = _flex(query.device.type)(query, key, value, block_mask=segments, scale=scale, enable_gqa=True)[0]
    else:
        q_CGTD = query[0].unflatten(0, (key.shape[1], -1))
        out = _SegmentAttention.apply(q_CGTD, key[0], value[0], segments, scale)  # type: ignore[no-untyped-call]
        out = out.flatten(0, 1)
    return out.transpose(0, 1)[None], None


# private in torch: the public call does not give the log-sum-exp that a backward pass of our own needs; tested with
# torch 2.13 and 2.14, and pyproject.toml has the upper bound
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _SegmentAttention(torch.autograd.Function):
    """Flash attention, one segment at a time; positions behind the last segment give and get zeros.

    The backward is in float32 also where the rest is bfloat16: a CPU's flash backward in bfloat16 takes 1.5 to 4 times
    as long, while its forward takes half to two thirds (measured on 64 to 550 positions, heads of 16 to 64). Autograd
    through slices would write a gradient of the whole pack for each segment, so the backward is written out.
    """

    @staticmethod
    def forward(
        ctx: Any, q_CGTD: Tensor, k_CTD: Tensor, v_CTD: Tensor, segments: list[Segment], scale: float
    ) -> Tensor:
        out_CGTD = torch.zeros_like(q_CGTD)
        norms = []
        for s in segments:
            own, seen = slice(s.start, s.start + s.length), _looked_at(k_CTD, v_CTD, s, q_CGTD.shape[1])
            out_CGTD[:, :, own], norm = _flash(q_CGTD[:, :, own], *seen, 0.0, **_mask(s, q_CGTD.dtype), scale=scale)
            norms.append(norm)
        ctx.save_for_backward(q_CGTD, k_CTD, v_CTD, out_CGTD, *norms)
        ctx.segments, ctx.scale = segments, scale
        return out_CGTD

    @staticmethod
    def backward(ctx: Any, grad_CGTD: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_CGTD, k_CTD, v_CTD, out_CGTD, *norms = ctx.saved_tensors
        dtype, wide = grad_CGTD.dtype, torch.promote_types(grad_CGTD.dtype, torch.float32)
        grad_CGTD, q_CGTD, k_CTD, v_CTD, out_CGTD = (x.to(wide) for x in (grad_CGTD, q_CGTD, k_CTD, v_CTD, out_CGTD))
        dq, dk, dv = torch.zeros_like(q_CGTD), torch.zeros_like(k_CTD), torch.zeros_like(v_CTD)
        for s, norm in zip(ctx.segments, norms, strict=True):
            own, before = slice(s.start, s.start + s.length), s.prefix_length
            seen = _looked_at(k_CTD, v_CTD, s, q_CGTD.shape[1])
            further = {**_mask(s, q_CGTD.dtype), "scale": ctx.scale}
            grad, q, out = (x[:, :, own] for x in (grad_CGTD, q_CGTD, out_CGTD))
            dq[:, :, own], d_k, d_v = _flash_backward(grad, q, *seen, out, norm, 0.0, **further)
            d_k, d_v = d_k.sum(1), d_v.sum(1)
            dk[:, own] = d_k[:, before:]
            dv[:, own] = d_v[:, before:]
            if before:  # a prefix comes before the segments that read it, so its own part is in place already
                prefix = slice(s.prefix_start, s.prefix_start + before)
                dk[:, prefix] += d_k[:, :before]
                dv[:, prefix] += d_v[:, :before]
        return dq.to(dtype), dk.to(dtype), dv.to(dtype), None, None


def _looked_at(k_CTD: Tensor, v_CTD: Tensor, s: Segment, groups: int) -> list[Tensor]:
    """Keys and values that a segment sees: those of its prefix, then its own, views (C, G, prefix + length, D)."""
    own, prefix = slice(s.start, s.start + s.length), slice(s.prefix_start, s.prefix_start + s.prefix_length)
    seen = [torch.cat([x[:, prefix], x[:, own]], 1) if s.prefix_length else x[:, own] for x in (k_CTD, v_CTD)]
    return [x[:, None].expand(-1, groups, -1, -1) for x in seen]


def _mask(s: Segment, dtype: torch.dtype) -> dict[str, Any]:
    """Flash attention's arguments for a segment: causal, or causal behind a prefix that all of it sees."""
    if not s.prefix_length:
        return {"is_causal": True, "attn_mask": None}
    return {"is_causal": False, "attn_mask": _causal(s.prefix_length, s.length, dtype)}


_CAUSAL: dict[torch.dtype, Tensor] = {}


def _causal(before: int, rows: int, dtype: torch.dtype) -> Tensor:
    """0 where row i may look (columns up to before + i), else -inf, (rows, before + rows): a view of one table."""
    size = before + rows
    table = _CAUSAL.get(dtype)
    if table is None or len(table) < size:
        table = _CAUSAL[dtype] = torch.full((max(512, size),) * 2, -torch.inf, dtype=dtype).triu(1)
    return table[before:size, :size]


def _block_mask(segments: list[Segment], num_positions: int, device: torch.device) -> BlockMask:
    """The same for FlexAttention, which skips blocks that no segment needs."""
    own_T, first_T, end_T = (torch.from_numpy(x).to(device) for x in _labels(segments, num_positions))

    def allowed(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return ((own_T[i] == own_T[j]) & (i >= j)) | ((first_T[i] <= j) & (j < end_T[i]))

    return create_block_mask(allowed, None, None, num_positions, num_positions, device=str(device))


def _labels(segments: list[Segment], num_positions: int) -> np.ndarray:
    """Of each position: number of its segment, the filler being one of its own; bounds of its prefix. (3, T)."""
    segments = [*segments, Segment(sum(s.length for s in segments), 0, 0, 0)]
    length = [s.length for s in segments[:-1]] + [num_positions - segments[-1].start]
    rows = [(n, s.prefix_start, s.prefix_start + s.prefix_length) for n, s in enumerate(segments)]
    return np.repeat(np.array(rows).T, length, axis=1)


_FLEX: dict[str, Any] = {}


def _flex(kind: str) -> Any:
    if kind not in _FLEX:
        _FLEX[kind] = torch.compile(flex_attention, dynamic=True) if kind == "cuda" else flex_attention
    return _FLEX[kind]


AttentionInterface.register(PACKED, packed_attention)


def use_packed_attention(model: Any) -> None:
    """Switches a transformers model to packed attention, for good: gradient checkpointing runs layers again later."""
    if model.config._attn_implementation != PACKED:
        model.set_attn_implementation(PACKED)

"""Attention over packed batches, registered with transformers as the implementation `mixalign_packed`.

T packed positions, A heads, D head size. A plan is a list of segments: the positions of a segment attend causally to
each other, and to all of the segment's prefix.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from mixalign.types import Segment

__all__ = ["PACKED", "use_packed_attention"]

PACKED = "mixalign_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: list[Segment] | None = None,
    **further: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (1, A, T, D), key and value (1, A or fewer, T, D) -> (1, T, A, D).

    Without segments, as when the model generates, it is transformers' own `sdpa`.
    """
    if segments is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **further
        )
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    dtype = value.dtype  # rotary embeddings leave query and key in float32 under autocast
    if query.device.type == "cpu":
        wide = torch.promote_types(dtype, torch.float32)
        out = _SegmentAttention.apply(query[0].to(wide), key[0].to(wide), value[0].to(wide), segments, scale).to(dtype)
    else:
        out = _flex_attention(query.to(dtype), key.to(dtype), value, segments, scale)[0]
    return out.transpose(0, 1)[None], None


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _SegmentAttention(torch.autograd.Function):
    """Flash attention, one segment at a time; positions behind the last segment give and get zeros.

    In float32 also where the rest is bfloat16: a CPU's flash backward in bfloat16 takes 1.5 to 4 times as long
    (measured on 64 to 550 positions, heads of 16 and 32). Autograd through slices would write a gradient of the whole
    pack for each segment, so the backward is written out.
    """

    @staticmethod
    def forward(ctx: Any, q_ATD: Tensor, k_ATD: Tensor, v_ATD: Tensor, segments: list[Segment], scale: float) -> Tensor:
        out_ATD = torch.zeros_like(q_ATD)
        norms = []
        for s in segments:
            own = slice(s.start, s.start + s.length)
            seen, norm = _flash(
                q_ATD[None, :, own], *_looked_at(k_ATD, v_ATD, s), 0.0, **_mask(s, q_ATD.dtype), scale=scale
            )
            out_ATD[:, own] = seen[0]
            norms.append(norm)
        ctx.save_for_backward(q_ATD, k_ATD, v_ATD, out_ATD, *norms)
        ctx.segments, ctx.scale = segments, scale
        return out_ATD

    @staticmethod
    def backward(ctx: Any, grad_ATD: Tensor) -> tuple:  # type: ignore[override]
        q_ATD, k_ATD, v_ATD, out_ATD, *norms = ctx.saved_tensors
        dq, dk, dv = torch.zeros_like(q_ATD), torch.zeros_like(k_ATD), torch.zeros_like(v_ATD)
        for s, norm in zip(ctx.segments, norms, strict=True):
            own, before = slice(s.start, s.start + s.length), s.prefix_length
            here = [x[None, :, own] for x in (grad_ATD, q_ATD)]
            d_q, d_k, d_v = _flash_backward(
                *here,
                *_looked_at(k_ATD, v_ATD, s),
                out_ATD[None, :, own],
                norm,
                0.0,
                **_mask(s, q_ATD.dtype),
                scale=ctx.scale,
            )
            dq[:, own] = d_q[0]
            dk[:, own] = d_k[0, :, before:]
            dv[:, own] = d_v[0, :, before:]
            if before:  # a prefix comes before the segments that read it, so its own part is in place already
                prefix = slice(s.prefix_start, s.prefix_start + before)
                dk[:, prefix] += d_k[0, :, :before]
                dv[:, prefix] += d_v[0, :, :before]
        return dq, dk, dv, None, None


def _looked_at(k_ATD: Tensor, v_ATD: Tensor, s: Segment) -> list[Tensor]:
    """Keys and values that a segment sees: those of its prefix, then its own, (1, A, prefix + length, D)."""
    own, prefix = slice(s.start, s.start + s.length), slice(s.prefix_start, s.prefix_start + s.prefix_length)
    if not s.prefix_length:
        return [x[None, :, own] for x in (k_ATD, v_ATD)]
    return [torch.cat([x[:, prefix], x[:, own]], 1)[None] for x in (k_ATD, v_ATD)]


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


def _flex_attention(q: Tensor, k: Tensor, v: Tensor, segments: list[Segment], scale: float) -> Tensor:
    """The same by FlexAttention, which skips blocks that no segment needs (1, A, T, D)."""
    from torch.nn.attention.flex_attention import create_block_mask

    own_T, prefix_T = _labels(segments, q.shape[2], q.device)
    place_T = torch.arange(q.shape[2], device=q.device)

    def allowed(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        together = (own_T[i] == own_T[j]) & (place_T[i] >= place_T[j])
        return together | ((prefix_T[i, 0] <= j) & (j < prefix_T[i, 1]))

    mask = create_block_mask(allowed, None, None, q.shape[2], q.shape[2], device=str(q.device))
    return _compiled_flex(q.device.type)(q, k, v, block_mask=mask, scale=scale)


def _labels(segments: list[Segment], num_positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Segment of each position (T,), the filler being one of its own; and bounds of its prefix (T, 2)."""
    own_T = torch.full((num_positions,), len(segments))
    prefix_T = torch.zeros(num_positions, 2, dtype=torch.long)
    for number, s in enumerate(segments):
        own_T[s.start : s.start + s.length] = number
        prefix_T[s.start : s.start + s.length] = torch.tensor([s.prefix_start, s.prefix_start + s.prefix_length])
    return own_T.to(device), prefix_T.to(device)


_FLEX: dict[str, Any] = {}


def _compiled_flex(kind: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    if kind not in _FLEX:
        _FLEX[kind] = torch.compile(flex_attention, dynamic=True) if kind == "cuda" else flex_attention
    return _FLEX[kind]


AttentionInterface.register(PACKED, packed_attention)


def use_packed_attention(model: Any) -> None:
    """Switches a transformers model to packed attention, for good: gradient checkpointing runs layers again later."""
    if model.config._attn_implementation != PACKED:
        model.set_attn_implementation(PACKED)

"""Attention over packed batches, registered with transformers as the implementation `mixalign_packed`.

T packed positions, A heads, D head size. A plan is a list of segments: the positions of a segment attend causally to
each other, and to all of the segment's prefix.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from mixalign.types import Segment

__all__ = ["PACKED", "use_packed_attention"]

PACKED = "mixalign_packed"
ROUND = 32  # lengths are rounded up to a multiple in backward, so that matrix kernels meet few shapes


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: list[Segment] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (1, A, T, D), key and value (1, A or fewer, T, D) -> (1, T, A, D).

    Without segments it is plain causal attention.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if segments is None:
        seen = F.scaled_dot_product_attention(query, key, value, attention_mask, is_causal=True, scale=scale)
        return seen.transpose(1, 2), None
    dtype = value.dtype  # rotary embeddings leave query and key in float32 under autocast
    if query.device.type == "cpu":
        out = _SegmentAttention.apply(query[0].to(dtype), key[0].to(dtype), value[0], segments, scale)
    else:
        out = _flex_attention(query.to(dtype), key.to(dtype), value, segments, scale)[0]
    return out.transpose(0, 1)[None], None


class _SegmentAttention(torch.autograd.Function):
    """One segment at a time: flash attention forward, explicit products with recomputed probabilities backward.

    The flash backward of a CPU is slow in bfloat16. Positions behind the last segment give and get zeros.
    """

    @staticmethod
    def forward(ctx: Any, q_ATD: Tensor, k_ATD: Tensor, v_ATD: Tensor, segments: list[Segment], scale: float) -> Tensor:
        out_ATD = torch.zeros_like(q_ATD)
        for s in segments:
            own, before = slice(s.start, s.start + s.length), s.prefix_length
            k, v = _with_prefix(k_ATD, s, s.length), _with_prefix(v_ATD, s, s.length)
            mask = _causal(before, s.length, before + s.length, q_ATD.dtype) if before else None
            out_ATD[:, own] = F.scaled_dot_product_attention(
                q_ATD[None, :, own], k[None], v[None], attn_mask=mask, is_causal=mask is None, scale=scale
            )[0]
        ctx.save_for_backward(q_ATD, k_ATD, v_ATD)
        ctx.segments, ctx.scale = segments, scale
        return out_ATD

    @staticmethod
    def backward(ctx: Any, grad_ATD: Tensor) -> tuple:  # type: ignore[override]
        q_ATD, k_ATD, v_ATD = ctx.saved_tensors
        dq, dk, dv = torch.zeros_like(q_ATD), torch.zeros_like(k_ATD), torch.zeros_like(v_ATD)
        scaled_ATD = q_ATD * ctx.scale
        for s in ctx.segments:
            own, before = slice(s.start, s.start + s.length), s.prefix_length
            # the surplus of a rounded length is masked as a key, and has no gradient as a query
            rows, columns = _rounded(s.length), _rounded(before + s.length)
            q = scaled_ATD[:, s.start : s.start + rows]
            k, v = _with_prefix(k_ATD, s, columns - before), _with_prefix(v_ATD, s, columns - before)
            grad = F.pad(grad_ATD[:, own], (0, 0, 0, rows - s.length))
            mask = _causal(before, rows, columns, torch.float32)
            p = torch.baddbmm(mask, q.float(), k.float().transpose(1, 2)).softmax(-1).to(q.dtype)
            d_scores = torch._softmax_backward_data(torch.bmm(grad, v.transpose(1, 2)), p, -1, q.dtype)
            d_k, d_v = torch.bmm(d_scores.transpose(1, 2), q), torch.bmm(p.transpose(1, 2), grad)
            dq[:, own] = torch.bmm(d_scores, k)[:, : s.length]
            dk[:, own] = d_k[:, before : before + s.length]
            dv[:, own] = d_v[:, before : before + s.length]
            if before:  # a prefix comes before the segments that read it, so its own part is in place already
                prefix = slice(s.prefix_start, s.prefix_start + before)
                dk[:, prefix] += d_k[:, :before]
                dv[:, prefix] += d_v[:, :before]
        return dq.mul_(ctx.scale), dk, dv, None, None


def _rounded(length: int) -> int:
    return -(-length // ROUND) * ROUND


def _with_prefix(x_ATD: Tensor, s: Segment, length: int) -> Tensor:
    """The positions of the segment's prefix, then `length` from the segment's start on."""
    own = x_ATD[:, s.start : s.start + length]
    if not s.prefix_length:
        return own
    return torch.cat([x_ATD[:, s.prefix_start : s.prefix_start + s.prefix_length], own], 1)


_CAUSAL: dict[torch.dtype, Tensor] = {}


def _causal(before: int, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """0 where row i may look (columns up to before + i) and -inf elsewhere, (rows, columns): a view of one table."""
    size = max(before + rows, columns)
    table = _CAUSAL.get(dtype)
    if table is None or len(table) < size:
        table = _CAUSAL[dtype] = torch.full((max(512, size),) * 2, -torch.inf, dtype=dtype).triu(1)
    return table[before : before + rows, :columns]


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

"""Log-probabilities straight from hidden states: the logits never exist as a whole.

N predicted tokens, H hidden size, V vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

__all__ = ["CACHED", "compile_kernels", "compute_dtype", "linear_logprobs"]

CHUNK = 512  # rows of logits that exist at a time; on a GPU as many as make
GPU_CHUNK = 2**28  # numbers, since its kernels want large products
WIDE = 4096  # from this vocabulary on, backward goes by blocks of words: the weight's gradient is written once
BLOCK = 2048  # words of such a block
ROUND = 64  # rows are padded to a multiple, so that matrix kernels meet few shapes
CACHED = 2**17  # numbers that stay in a CPU's cache from one pass over them to the next


def linear_logprobs(hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor) -> Tensor:
    """`log_softmax(hidden @ weight.T)` at the targets, nats, (N,), float32 (float64 for float64 input).

    Logits are made in chunks, in the autocast dtype, reduced in float32, and made again in backward. Peak memory is
    one chunk instead of N * V numbers.
    """
    num_rows = len(target_N)
    extra = -num_rows % ROUND
    hidden_NH = torch.nn.functional.pad(hidden_NH, (0, 0, 0, extra))
    target_N = torch.nn.functional.pad(target_N, (0, extra))
    logp_N: Tensor = _LinearLogprobs.apply(hidden_NH, weight_VH, target_N)  # type: ignore[no-untyped-call]  # torch's
    return logp_N[:num_rows]


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor) -> Tensor:
        dtype = compute_dtype(hidden_NH)
        h_NH, w_VH = hidden_NH.to(dtype), weight_VH.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        logp_N = torch.empty(len(h_NH), dtype=wide, device=h_NH.device)
        norm_N = torch.empty_like(logp_N)
        chunk = min(_chunk(w_VH), len(h_NH))
        buffer = torch.empty(chunk, len(w_VH), dtype=dtype, device=h_NH.device)
        for i in range(0, len(h_NH), chunk):
            part = slice(i, min(i + chunk, len(h_NH)))
            logits = torch.mm(h_NH[part], w_VH.t(), out=buffer[: part.stop - i])
            norm_N[part] = _KERNELS["log_norm"](logits)
            logp_N[part] = logits.gather(1, target_N[part, None])[:, 0].to(wide) - norm_N[part]
        ctx.save_for_backward(h_NH, w_VH, target_N, norm_N)
        ctx.dtypes = hidden_NH.dtype, weight_VH.dtype
        return logp_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        h_NH, w_VH, target_N, norm_N = ctx.saved_tensors
        by_words = len(w_VH) >= WIDE and ctx.needs_input_grad[1]
        backward = _backward_by_words if by_words else _backward_by_rows
        d_hidden, d_weight = backward(h_NH, w_VH, target_N, norm_N, grad_N, ctx.needs_input_grad[1])
        return d_hidden.to(ctx.dtypes[0]), None if d_weight is None else d_weight.to(ctx.dtypes[1]), None


def _chunk(weight_VH: Tensor) -> int:
    """Rows of logits that exist at a time."""
    return max(CHUNK, GPU_CHUNK // len(weight_VH)) if weight_VH.is_cuda else CHUNK


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type that a matrix product of `x` has: autocast's, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _log_norm(logits: Tensor) -> Tensor:
    """log sum exp of every row, reduced in float32 at least."""
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    top = x.amax(1)
    return top + (x - top[:, None]).exp().sum(1).log()


def _logit_grads(logits: Tensor, norm_N: Tensor, grad_N: Tensor) -> Tensor:
    """-grad * softmax, the part of d logp / d logits that every word has."""
    return ((logits.to(norm_N.dtype) - norm_N[:, None]).exp() * -grad_N[:, None]).to(logits.dtype)


def _by_blocks(kernel: Callable[..., Tensor], *by_row: Tensor) -> Tensor:
    """The kernel on a few rows at a time, which a CPU reads from memory in the first of its passes only."""
    if by_row[0].device.type != "cpu":
        return kernel(*by_row)
    rows = max(1, CACHED // by_row[0].shape[1])
    return torch.cat([kernel(*block) for block in zip(*(x.split(rows) for x in by_row), strict=True)])


_KERNELS: dict[str, Callable[..., Tensor]] = {
    "log_norm": partial(_by_blocks, _log_norm),
    "logit_grads": partial(_by_blocks, _logit_grads),
}


def compile_kernels() -> None:
    """Makes one pass over the logits of each of the two element-wise steps, in place of three or four."""
    _KERNELS["log_norm"] = torch.compile(_log_norm, dynamic=True)
    _KERNELS["logit_grads"] = torch.compile(_logit_grads, dynamic=True)


def _backward_by_rows(
    h_NH: Tensor, w_VH: Tensor, target_N: Tensor, norm_N: Tensor, grad_N: Tensor, weight_too: bool
) -> tuple[Tensor, Tensor | None]:
    d_hidden = torch.empty_like(h_NH)
    d_weight = torch.zeros(w_VH.shape, dtype=norm_N.dtype, device=w_VH.device) if weight_too else None
    chunk = _chunk(w_VH)
    for i in range(0, len(h_NH), chunk):
        part = slice(i, i + chunk)
        d_logits = _KERNELS["logit_grads"](h_NH[part] @ w_VH.t(), norm_N[part], grad_N[part])
        d_logits.scatter_add_(1, target_N[part, None], grad_N[part, None].to(d_logits.dtype))
        torch.mm(d_logits, w_VH, out=d_hidden[part])
        if d_weight is not None and d_logits.dtype == d_weight.dtype:
            d_weight.addmm_(d_logits.t(), h_NH[part])
        elif d_weight is not None:
            d_weight += d_logits.t() @ h_NH[part]  # one chunk in 16 bits, summed over chunks in float32
    return d_hidden, d_weight


def _backward_by_words(
    h_NH: Tensor, w_VH: Tensor, target_N: Tensor, norm_N: Tensor, grad_N: Tensor, weight_too: bool
) -> tuple[Tensor, Tensor | None]:
    d_hidden = torch.zeros(h_NH.shape, dtype=norm_N.dtype, device=h_NH.device)
    d_weight = torch.empty(w_VH.shape, dtype=norm_N.dtype, device=w_VH.device)
    for v in range(0, len(w_VH), BLOCK):
        words = slice(v, min(v + BLOCK, len(w_VH)))
        d_logits = _KERNELS["logit_grads"](h_NH @ w_VH[words].t(), norm_N, grad_N)
        place_N = target_N - v
        inside_N = (place_N >= 0) & (place_N < d_logits.shape[1])  # a mask: their number would wait for a GPU
        grad_here_N = (grad_N * inside_N).to(d_logits.dtype)
        d_logits.scatter_add_(1, place_N.clamp(0, d_logits.shape[1] - 1)[:, None], grad_here_N[:, None])
        d_weight[words] = d_logits.t() @ h_NH
        d_hidden += d_logits @ w_VH[words]
    return d_hidden, d_weight

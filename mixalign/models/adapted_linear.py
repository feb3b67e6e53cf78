"""LoRA's layers with one rounding: base and adapter are one matrix product, added up before the result is rounded.

N positions, I inputs and O outputs of a layer, R rank.
"""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn.functional import linear

from mixalign.losses.linear_logprobs import compute_dtype
from mixalign.models.adapters import READS

__all__ = ["AdaptedLinear", "change_layers"]

TILE = 32  # numbers: the product's inner size is filled up with zeros to a multiple, which a CPU's tiles want


def change_layers(model: Any) -> Any:
    """Gives the plain LoRA layers of a model this module's class, in place; others stay as they are."""
    for layer in model.modules():
        if type(layer) is Linear and type(layer.base_layer) is nn.Linear:
            layer.__class__ = AdaptedLinear
    return model


class AdaptedLinear(Linear):
    """PEFT's layer, whose weights and methods it has.

    PEFT rounds the base's output `x W'`, and then its sum with the adapter's `x A' B' s`. In bfloat16, which keeps
    three digits, an adapter below half a unit in the last place of the base's output is thereby lost altogether,
    always to the same side: SmolLM2-135M after 20 steps of DPO had a margin of .104 in place of float32's .373. Here
    `[x, x A'] [W, s B]'` sums both in float32 and is rounded once (.395). Without dropout it is faster, too: no pass
    over the output.

    Whatever this does not do goes to PEFT: several adapters, variants such as DoRA, merged or disabled adapters,
    weights of other types than the product, hooks on the layer's parts but for those that only read (`READS`).
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = self._only_adapter() if not (args or kwargs) else None
        dtype = compute_dtype(x)
        if name is None or not self._has_type(name, x, dtype):
            theirs: Tensor = super().forward(x, *args, **kwargs)
            return theirs
        base, a, b = self.base_layer, self.lora_A[name], self.lora_B[name]
        further = (self.scaling[name], dtype)
        out: Tensor
        if self._is_one_product(name):
            out = _Adapted.apply(x, base.weight, base.bias, a.weight, b.weight, *further)  # type: ignore[no-untyped-call]
        else:
            seen = self._cast_input_dtype(x, a.weight.dtype)  # type: ignore[arg-type]  # as PEFT does, so that
            rank = a(self.lora_dropout[name](seen))  # dropout's factor is not rounded to 16 bits
            out = _Summed.apply(x, rank, b(rank), base.weight, base.bias, b.weight, *further)  # type: ignore[no-untyped-call]
        return out

    def _only_adapter(self) -> str | None:
        """The adapter, where it is one and plain."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        (name,) = self.active_adapters
        if name not in self.lora_A or name in self.lora_variant or self.lora_B[name].bias is not None:
            return None
        base, factors = self.base_layer, (self.lora_A[name], self.lora_B[name])
        around = (base, self.lora_dropout[name])
        hooked = any(part._forward_pre_hooks or part._backward_hooks for part in (*around, *factors))
        hooked = hooked or any(part._forward_hooks for part in around)
        hooked = hooked or any(not getattr(h, READS, False) for part in factors for h in part._forward_hooks.values())
        is_trained = any(weight.requires_grad for weight in base.parameters())
        return None if hooked or is_trained else name

    def _is_one_product(self, name: str) -> bool:
        """Whether the adapter sees what the base sees, and nobody reads what is between its factors."""
        dropped = self.training and getattr(self.lora_dropout[name], "p", 0) > 0
        return not (dropped or self.lora_A[name]._forward_hooks or self.lora_B[name]._forward_hooks)

    def _has_type(self, name: str, x: Tensor, dtype: torch.dtype) -> bool:
        """Whether PEFT would multiply in this type, too: autocast has it so, or all numbers are of it."""
        if torch.is_autocast_enabled(x.device.type):
            return True
        weights = (self.base_layer.weight, self.lora_A[name].weight, self.lora_B[name].weight)
        return all(weight.dtype == dtype for weight in weights)


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        a_RI: Tensor,
        b_OR: Tensor,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        rank, inner = a_RI.shape
        a_RI, weights_OJ = a_RI.to(dtype), _weights(weight_OI, b_OR, scale, dtype)
        both_NJ = _inputs(x, weights_OJ)
        torch.mm(both_NJ[:, :inner], a_RI.t(), out=both_NJ[:, inner : inner + rank])
        out_NO = linear(both_NJ, weights_OJ, None if bias_O is None else bias_O.to(dtype))
        seen_NI, rank_NR = both_NJ[:, :inner], both_NJ[:, inner : inner + rank]
        if x.dtype == dtype:  # kept once, whoever else keeps it: attention that made it, or a layer beside this one
            seen_NI, rank_NR = x.reshape(-1, inner), rank_NR.clone()
        converted_OJ = None if weight_OI.dtype == dtype else weights_OJ  # a mere copy is made again
        ctx.save_for_backward(seen_NI, rank_NR, a_RI, weight_OI, b_OR, converted_OJ)
        ctx.scale, ctx.shape, ctx.types = scale, x.shape, (x.dtype, b_OR.dtype)
        return out_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None, None]:
        seen_NI, rank_NR, a_RI, weight_OI, b_OR, weights_OJ = ctx.saved_tensors
        rank, inner = a_RI.shape
        ranks = slice(inner, inner + rank)
        if weights_OJ is None:
            weights_OJ = _weights(weight_OI, b_OR, ctx.scale, seen_NI.dtype)
        grad_NO = grad.reshape(-1, len(weights_OJ))
        d_x = None
        if ctx.needs_input_grad[0]:
            d_both_NJ = grad_NO @ weights_OJ
            d_rank_NR = d_both_NJ[:, ranks]
            d_x = torch.addmm(d_both_NJ[:, :inner], d_rank_NR, a_RI).to(ctx.types[0]).view(ctx.shape)
        else:
            d_rank_NR = grad_NO @ weights_OJ[:, ranks]
        d_a = (d_rank_NR.t() @ seen_NI).to(ctx.types[1])
        d_b = ctx.scale * (grad_NO.t() @ rank_NR).to(ctx.types[1])
        return d_x, None, None, d_a, d_b, None, None


class _Summed(torch.autograd.Function):
    """The same from what the factors gave: values are made of the first's output, gradients go to the second's."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rank: Tensor,
        change: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        b_OR: Tensor,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        inner, weights_OJ = weight_OI.shape[1], _weights(weight_OI, b_OR, scale, dtype)
        both_NJ = _inputs(x, weights_OJ)
        both_NJ[:, inner : inner + rank.shape[-1]] = rank.reshape(-1, rank.shape[-1])
        out_NO = linear(both_NJ, weights_OJ, None if bias_O is None else bias_O.to(dtype))
        ctx.save_for_backward(weight_OI)
        ctx.scale, ctx.types = scale, (x.dtype, change.dtype)
        return out_NO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor, None, None, None, None, None]:
        (weight_OI,) = ctx.saved_tensors
        d_x = (grad @ weight_OI.to(grad.dtype)).to(ctx.types[0]) if ctx.needs_input_grad[0] else None
        return d_x, None, (ctx.scale * grad).to(ctx.types[1]), None, None, None, None, None


def _weights(weight_OI: Tensor, b_OR: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """`[W, s B, 0]`, (O, J): filled up to whole tiles."""
    inner, used = weight_OI.shape[1], weight_OI.shape[1] + b_OR.shape[1]
    out_OJ = torch.empty(len(weight_OI), used + -used % TILE, dtype=dtype, device=weight_OI.device)
    out_OJ[:, :inner] = weight_OI
    out_OJ[:, inner:used] = scale * b_OR
    out_OJ[:, used:] = 0
    return out_OJ


def _inputs(x: Tensor, weights_OJ: Tensor) -> Tensor:
    """`[x, 0]`, (N, J), of the type of the weights: what the adapter makes of x comes behind it."""
    inner = x.shape[-1]
    out_NJ = torch.empty(x.numel() // inner, weights_OJ.shape[1], dtype=weights_OJ.dtype, device=x.device)
    out_NJ[:, :inner] = x.reshape(-1, inner)
    out_NJ[:, inner:] = 0  # first: a product in bfloat16 reads whole tiles, and 0 times a NaN there is NaN
    return out_NJ

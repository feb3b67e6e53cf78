"""Log-probabilities of targets from hidden states: mixalign's chunked head, or a fused kernel for GPUs."""

import torch
from torch import Tensor

from mixalign.errors import MixalignError
from mixalign.losses.linear_logprobs import compute_dtype, linear_logprobs

__all__ = ["HEADS", "target_logprobs", "use_head"]


def _cut_cross_entropy(hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor) -> Tensor:
    """The kernels of arXiv 2411.09009, which keep logits in the GPU's fast memory."""
    from cut_cross_entropy import linear_cross_entropy

    dtype = compute_dtype(hidden_NH)
    # its filter drops gradients below the rounding of 16 bits
    loss_N: Tensor = linear_cross_entropy(
        hidden_NH.to(dtype), weight_VH.to(dtype), target_N, reduction="none", filter_eps="auto"
    )
    return -loss_N.to(torch.promote_types(dtype, torch.float32))


HEADS = {"chunked": linear_logprobs, "cce": _cut_cross_entropy}
_in_use = "chunked"


def use_head(name: str) -> None:
    """Chooses the head of this process.

    Raises:
        MixalignError: when the library of that head is not installed.
    """
    global _in_use
    if name == "cce":
        try:
            import cut_cross_entropy  # noqa: F401
        except ImportError as error:
            raise MixalignError(
                f"`engine.head=cce` needs a library that cannot be imported ({error}): pip install cut-cross-entropy, "
                "or take `engine.head=chunked`."
            ) from error
    _in_use = name


def target_logprobs(hidden_NH: Tensor, weight_VH: Tensor, target_N: Tensor) -> Tensor:
    """`log_softmax(hidden @ weight.T)` at the targets, nats, (N,), without logits that exist as a whole."""
    return HEADS[_in_use](hidden_NH, weight_VH, target_N)

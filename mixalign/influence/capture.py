"""Inputs and output gradients of linear layers, one batch at a time.

P positions of a batch (all of them, row after row), I inputs and O outputs of a layer. The gradient of the weight is
`delta_PO.T @ x_PI`, and that of one sample the same over the sample's positions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixalign.errors import MixalignError
from mixalign.models.adapters import READS
from mixalign.models.precision import autocast
from mixalign.types import Batch

__all__ = ["Each", "at_rest", "observe", "once", "spans"]

Each = Callable[[str, Tensor, Tensor], None]
"""Takes a layer's name, its inputs x (P, I) and its output gradients delta (P, O), of one type: bfloat16 or wider."""


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no weight that wants a gradient; afterwards all is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    model.eval()
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for weight in trained:
            weight.requires_grad_()


def observe(
    layers: Mapping[str, nn.Linear],
    batch: Batch,
    readings: Sequence[tuple[Callable[[], Tensor], Each]],
    precision: str = "32-true",
    shared: nn.Module | None = None,
) -> None:
    """Runs losses of a batch forward and backward, and calls for every layer as soon as its gradient is there.

    Nothing is kept: one layer's gradients are gone before those of the layer below it come. Call it inside `at_rest`,
    so that autograd forms no gradient of a weight.

    Args:
        batch: what the losses read.
        readings: each loss, one number a sample (B,) from a forward pass that runs each layer at most once, with what
            is called for its gradients; each has a backward pass of its own.
        precision: Lightning's, of the forward pass.
        shared: the part of the model whose output for the batch all losses read, which runs forward once for all of
            them; None where there is one loss.

    Raises:
        MixalignError: when a layer does not see every position, as one of many experts does.
    """
    positions, device = batch["input_ids"].numel(), batch["input_ids"].device
    anchor = torch.zeros((), device=device, requires_grad=True)
    reader: list[Each] = []  # whom gradients go to, the last

    def tap(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = inputs[0].detach()

            def give(delta: Tensor) -> None:
                reader[-1](name, *_alike(_flat(name, x, positions), _flat(name, delta, positions)))

            tapped: Tensor = _Tap.apply(output, anchor, give)  # type: ignore[no-untyped-call]  # torch's
            return tapped

        return _that_reads(hook)

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(tap(name)).remove)
        if shared is not None:
            stack.enter_context(_runs_once(shared, batch["input_ids"]))
        for number, (loss, each) in enumerate(readings, 1):
            reader.append(each)
            with autocast(device, precision):
                loss_B = loss()
            with torch.autocast(device.type, enabled=False):  # `each` chooses the types of its products
                torch.autograd.grad(loss_B.sum(), anchor, retain_graph=number < len(readings))


def _that_reads(hook: Callable[..., Tensor]) -> Callable[..., Tensor]:
    setattr(hook, READS, True)
    return hook


@contextmanager
def _runs_once(module: nn.Module, ids: Tensor) -> Iterator[None]:
    """Hands out the module's first output for these ids again, its graph with it; other ids are run as ever."""
    run, own = module.forward, module.__dict__.get("forward")
    kept: list[Any] = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("input_ids") is not ids:
            return run(*args, **kwargs)
        if not kept:
            kept.append(run(*args, **kwargs))
        return kept[0]

    module.forward = forward
    try:
        yield
    finally:
        del module.forward  # that of the class is behind it
        if own is not None:
            module.forward = own


class _Tap(torch.autograd.Function):
    """Gives away the gradient of a layer's output.

    Every tap has the anchor as a second input, which is the one thing that backward differentiates by: it reaches all
    taps, and where weights are frozen it ends at the lowest of them.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor, give: Callable[[Tensor], None]) -> Tensor:
        ctx.give = give
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor, Tensor, None]:
        ctx.give(delta)
        return delta, torch.zeros((), device=delta.device), None


def _flat(name: str, x: Tensor, positions: int) -> Tensor:
    """(positions, features)."""
    flat = x.reshape(-1, x.shape[-1])
    if len(flat) != positions:
        raise MixalignError(
            f"Layer `{name}` sees {len(flat)} of the {positions} positions of a batch, so its gradients cannot be "
            "told apart by row. Leave such layers out with a pattern in `influence.layers`."
        )
    return flat


def _alike(x_PI: Tensor, delta_PO: Tensor) -> tuple[Tensor, Tensor]:
    """Both in bfloat16 where the layer multiplied in it, which rounded its input so; else at least in float32."""
    if delta_PO.dtype == torch.bfloat16:
        return x_PI.to(torch.bfloat16), delta_PO
    wide = torch.promote_types(torch.promote_types(x_PI.dtype, delta_PO.dtype), torch.float32)
    return x_PI.to(wide), delta_PO.to(wide)


def once(each: Each, batch: Batch, prompt_B: np.ndarray) -> Each:
    """`each` with the positions of every prompt once, in any layout: a padded batch repeats it for each completion.

    All copies have the same inputs, and their gradients are those of one position in parts. A pack has one copy; here
    the output gradients of further ones are added to the first and are 0 afterwards. Apart they would be taken for
    positions that are independent of each other, where those of a pair nearly cancel.

    Args:
        prompt_B: tokens of each sample's prompt.
    """
    num_completions, device = batch["num_tokens_BS"].shape[1], batch["input_ids"].device
    if "segments" in batch or num_completions == 1:
        return each
    width = batch["input_ids"].shape[1]
    places = [(b, s, t) for b, size in enumerate(prompt_B) for s in range(1, num_completions) for t in range(size)]
    b_N, s_N, t_N = torch.tensor(places, dtype=torch.int64, device=device).reshape(-1, 3).T
    first_N = b_N * num_completions * width + t_N
    copy_N = first_N + s_N * width

    def merged(name: str, x_PI: Tensor, delta_PO: Tensor) -> None:
        delta_PO = delta_PO.index_add(0, first_N, delta_PO[copy_N]).index_fill(0, copy_N, 0)
        each(name, x_PI, delta_PO)

    return merged


def spans(batch: Batch) -> list[slice]:
    """The positions of each sample, B slices: its rows of a padded batch, or its part of a packed one.

    In a pack a sample's segments lie side by side. A segment belongs to the sample that has a token predicted in it;
    one without has no gradient (where a prompt is empty, the segments alone do not tell where a sample begins).
    """
    num_samples, num_completions = batch["num_tokens_BS"].shape
    if "segments" not in batch:
        size = num_completions * batch["input_ids"].shape[1]
        return [slice(b * size, (b + 1) * size) for b in range(num_samples)]
    start = np.array([s.start for s in batch["segments"]])
    end = start + [s.length for s in batch["segments"]]
    segment_N = np.searchsorted(start, batch["predict_N"].cpu().numpy(), side="right") - 1
    sample_N = batch["sequence_N"].cpu().numpy() // num_completions
    return [_span(start, end, segment_N[sample_N == b]) for b in range(num_samples)]


def _span(start: np.ndarray, end: np.ndarray, segments: np.ndarray) -> slice:
    return slice(int(start[segments.min()]), int(end[segments.max()])) if len(segments) else slice(0, 0)

"""What a loss reads of more rows than those of one batch: KTO's KL, and the mean that `clip=task` clips.

Rows are read without gradients, before the first backward pass of a step or before a measurement; sums are those of
all batches and processes, so that nothing depends on how rows are cut into batches.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mixalign.losses.kto import kl_estimate
from mixalign.types import Batch, on_device, sum_dtype

__all__ = ["Look", "gate", "gates_ahead", "kl_of", "look", "look_ahead", "together", "with_kl", "without_inputs"]

Look = list[tuple[Tensor, Batch]]
"""Log-probabilities (B, S) and the batch that they are of."""

INPUTS = ("input_ids", "position_ids", "segments", "predict_N", "target_N", "sequence_N", "ahead")


@torch.no_grad()
def look(module: Any, batches: Sequence[Batch]) -> Look:
    """Reads some batches, which may be on the CPU, and keeps of them what their losses need."""
    seen = []
    for batch in batches:
        moved = on_device(batch, module.device)
        seen.append((module.logp(moved), without_inputs(moved)))
    # what autocast has rounded without gradients must not be found again by the pass with gradients
    torch.clear_autocast_cache()
    return seen


def without_inputs(batch: Batch) -> Batch:
    """The batch without what the model reads."""
    return cast(Batch, {key: value for key, value in batch.items() if key not in INPUTS})


def kl_of(module: Any, seen: Look) -> Tensor:
    """KTO's KL of each task (K,) over what all processes have seen; each must call it."""
    num_tasks = len(module.tasks)
    sums_2K = torch.zeros(2, num_tasks, dtype=sum_dtype(module.device), device=module.device)
    for logp_BS, batch in seen:
        sums_2K += module.objective.kl_sums(logp_BS, batch, num_tasks)
    return kl_estimate(module.trainer.strategy.reduce(sums_2K, reduce_op="sum"))


def with_kl(seen: Look, kl_K: Tensor) -> Look:
    """The same, with the KL that their losses are measured from."""
    return [(logp_BS, batch | Batch(kl_K=kl_K)) for logp_BS, batch in seen]


def together(module: Any, batches: Sequence[Batch]) -> list[Batch]:
    """The batches on the model's device, with what the losses of all of them, on all processes, have in common."""
    moved = [on_device(batch, module.device) for batch in batches]
    if not getattr(module, "reads_kl", False):
        return moved
    kl_K = kl_of(module, look(module, moved))
    return [batch | Batch(kl_K=kl_K) for batch in moved]


def gates_ahead(module: Any, accumulate: int) -> bool:
    """Whether `clip=task` has to know the losses of other micro-batches.

    Args:
        accumulate: micro-batches of a step on each process.
    """
    return bool(module.clip == "task" and module.descends_on == "excess" and accumulate > 1)


def gate(module: Any, gap_B: Tensor, batch: Batch) -> Tensor:
    """With `clip=task`, 0 for the samples of a task whose mean excess over the step is not positive, else 1, (B,)."""
    if module.clip != "task":
        return torch.ones_like(gap_B)
    whole = module.trainer.accumulate_grad_batches == 1
    gate_K: Tensor = _over_zero(module, [(gap_B, batch)]) if whole else module.gate_K
    return gate_K[batch["task_B"]]


def look_ahead(module: Any, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Reads the rows of a whole step: their KL (K,), and which tasks `clip=task` takes in (K,); empty if not wanted."""
    kl_K = gate_K = torch.empty(0)
    seen = look(module, batches)
    if module.reads_kl:
        kl_K = kl_of(module, seen)
        seen = with_kl(seen, kl_K)
    if gates_ahead(module, module.trainer.accumulate_grad_batches):
        losses = [(module.objective.scores(logp_BS, batch)["loss"], batch) for logp_BS, batch in seen]
        gate_K = _over_zero(module, [(loss_B - batch["specialist_loss_B"], batch) for loss_B, batch in losses])
    return kl_K, gate_K


def _over_zero(module: Any, gaps: Sequence[tuple[Tensor, Batch]]) -> Tensor:
    """1 for tasks whose mean gap over all batches and processes is positive, else 0, (K,); each must call it.

    Args:
        gaps: the gap to the specialist of each sample (B,), and its batch.
    """
    sums_K = torch.zeros(len(module.tasks), dtype=sum_dtype(module.device), device=module.device)
    for gap_B, batch in gaps:
        counted_B = gap_B.detach() * batch["weight_B"] if "weight_B" in batch else gap_B.detach()
        sums_K.index_add_(0, batch["task_B"], counted_B.to(sums_K.dtype))
    sums_K = torch.as_tensor(module.trainer.strategy.reduce(sums_K, reduce_op="sum"))
    return (sums_K > 0).float()

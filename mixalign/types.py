"""The nouns of the data flow.

Shape suffixes, here and everywhere: B samples of a batch, N rows of a table (or predicted tokens of a batch),
S completions of a row (2 for a preference pair: chosen, rejected; 1 for SFT), T tokens, V vocabulary,
H hidden size, K tasks.
"""

from typing import Any, Literal, NamedTuple, TypedDict, cast

import numpy as np
import torch
from torch import Tensor

__all__ = ["Batch", "Example", "Form", "Message", "Segment", "TokenRow", "on_device", "sum_dtype"]

Form = Literal["preference", "supervised", "unpaired", "mismatched"]
"""Rows that an objective needs: pairs; answers; answers with a verdict; the same with another row's answer beside."""

Message = dict[str, Any]
"""One turn of a conversation: at least `role`, and `content` or `tool_calls`; of the assistant in `messages`, maybe
`weight`: 1 learned, as where there is none, 0 not learned."""


class Example(TypedDict, total=False):
    """One row of a task after its format was recognised, before tokenisation.

    Exactly one of these key sets is present: {prompt, chosen, rejected}, {prompt, completion}, {messages},
    {prompt, completion, label}; or, where the row is token ids already, {input_ids, supervised} or
    {prompt_ids, chosen_ids, rejected_ids}.
    Each text is a string (standard) or a list of messages (conversational), the same kind within a row.
    """

    prompt: str | list[Message]
    chosen: str | list[Message]
    rejected: str | list[Message]
    completion: str | list[Message]
    label: bool  # whether the completion is a desirable one
    messages: list[Message]
    tools: list[dict[str, Any]]  # JSON schemas handed to the chat template
    chat_template_kwargs: dict[str, Any]
    weight: float  # of the row inside its task, from 0 on; absent: 1
    input_ids: list[int]
    supervised: list[bool]  # which of input_ids are learned
    prompt_ids: list[int]
    chosen_ids: list[int]  # without those of the prompt
    rejected_ids: list[int]


class TokenRow(TypedDict):
    """One tokenised row: a prompt and S completions that continue it."""

    row_id: int  # 63-bit hash of the token ids, the mask and the label: the same content always has the same id
    prompt: np.ndarray  # int32 (P,)
    completions: list[np.ndarray]  # S arrays, int32 (C_s,)
    supervised: list[np.ndarray]  # S arrays, bool (C_s,): which completion tokens the loss reads


class Segment(NamedTuple):
    """A run of positions in a packed batch that attend causally to each other, and to a whole prefix before them."""

    start: int
    length: int
    prefix_start: int
    prefix_length: int  # 0: none


class Batch(TypedDict, total=False):
    """One micro-batch on one rank, ready for a model."""

    input_ids: Tensor  # int64: (B * S, T), right-padded, completion s of sample b in row b * S + s; or packed (1, T)
    position_ids: Tensor  # int64 (1, T): packed only
    segments: list[Segment]  # packed only; a segment's prefix comes before it
    predict_N: Tensor  # int64 (N,): flat position (row * T + t) whose hidden state predicts the target
    target_N: Tensor  # int64 (N,): the supervised token ids
    sequence_N: Tensor  # int64 (N,): b * S + s of each target
    num_tokens_BS: Tensor  # float32 (B, S): supervised tokens of each completion
    task_B: Tensor  # int64 (B,): index of the task
    row_id_B: Tensor  # int64 (B,)
    draw_prob_B: Tensor  # float64 (B,): probability of the sample's task when it was drawn (EXP3 divides by it)
    count_K: Tensor  # float64 (K,): samples of each task in the whole global batch of the optimizer step
    reference_logp_BS: Tensor  # float64 (B, S): log-probability under the reference policy, nats
    label_B: Tensor  # bool (B,): whether the completion is a desirable one; unpaired rows only
    weight_B: Tensor  # float32 (B,): what the row counts in means of its task, 1 on average; where a task has weights
    specialist_loss_B: Tensor  # float32 (B,): loss of the task's specialist on this row, nats
    kl_K: Tensor  # float64 (K,): what KTO measures log ratios of each task from, nats; see `mixalign.objectives.kto`
    ahead: "list[Batch]"  # with a step's first micro-batch: rows of the whole step that are read before it, on the CPU


def on_device(batch: Batch, where: torch.device) -> Batch:
    """The batch with every tensor on a device."""
    moved = {key: _moved(value, where) if isinstance(value, Tensor) else value for key, value in batch.items()}
    return cast(Batch, moved)


def _moved(value: Tensor, where: torch.device) -> Tensor:
    return value.to(where, sum_dtype(where) if value.dtype == torch.float64 else value.dtype)


def sum_dtype(device: torch.device | str) -> torch.dtype:
    """The widest float of a device: Apple's GPUs have no float64."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64

"""One forward pass of a batch: log-probability of every completion, with the LM head on their positions only."""

import warnings
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mixalign.losses.logprobs import gather_logprobs, sum_by_sequence
from mixalign.types import Batch

__all__ = ["Completions", "score_completions"]


class Completions(NamedTuple):
    """What a model says of the completions of a batch.

    Attributes:
        logp_BS: log-probability of each completion, nats, summed over supervised tokens; float64.
        correct_BS: supervised tokens that were the model's first choice; None unless asked for.
    """

    logp_BS: Tensor
    correct_BS: Tensor | None


def score_completions(model: nn.Module, batch: Batch, count_correct: bool = False) -> Completions:
    """Runs the model over the batch. `model` is a causal LM of transformers, with or without PEFT adapters."""
    logits_NV = _selected_logits(model, batch["input_ids"], batch["predict_N"])
    shape = batch["num_tokens_BS"].shape
    size = shape[0] * shape[1]
    logp_N = gather_logprobs(logits_NV, batch["target_N"])
    logp_BS = sum_by_sequence(logp_N, batch["sequence_N"], size).view(shape)
    if not count_correct:
        return Completions(logp_BS, None)
    correct_N = (logits_NV.argmax(1) == batch["target_N"]).float()
    return Completions(logp_BS, sum_by_sequence(correct_N, batch["sequence_N"], size).view(shape))


def _selected_logits(model: Any, input_ids: Tensor, predict_N: Tensor) -> Tensor:
    if not _head_is_plain(model):
        return model(input_ids=input_ids, use_cache=False).logits.flatten(0, 1).index_select(0, predict_N)
    core = _core(model)
    hidden = core.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    return core.get_output_embeddings()(hidden.flatten(0, 1).index_select(0, predict_N))


def _core(model: nn.Module) -> Any:
    """The transformers model: PEFT puts its layers inside it, so calling it keeps the adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


_PLAIN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _head_is_plain(model: nn.Module) -> bool:
    """Whether logits are the output embedding of the last hidden state and nothing else.

    Some families scale or cap their logits, and prompt-learning adapters change the input: a look at four tokens
    tells, once a model. Such models go through their own forward, with logits at every position.
    The head's output is made large for it, because a cap leaves the small logits of a fresh model as they are.
    """
    if model not in _PLAIN:
        _PLAIN[model] = _probe(model)
        if not _PLAIN[model]:
            warnings.warn(
                f"{type(_core(model)).__name__} changes its logits after the LM head, so they are computed at every "
                "position: right, but slower and with more memory.",
                stacklevel=2,
            )
    return _PLAIN[model]


@torch.no_grad()
def _probe(model: nn.Module) -> bool:
    core, training = _core(model), model.training
    peft_type = getattr(getattr(model, "active_peft_config", None), "peft_type", "LORA")
    if getattr(core, "get_output_embeddings", lambda: None)() is None or "PROMPT" in str(peft_type).upper():
        return False
    ids = torch.arange(4, device=next(model.parameters()).device)[None] % core.config.get_text_config().vocab_size
    head = core.get_output_embeddings()
    model.eval()
    try:
        ours = head(core.base_model(input_ids=ids, use_cache=False).last_hidden_state)
        loud = 100 / float(ours.abs().max().clamp_min(1e-6))
        with head.register_forward_hook(lambda module, inputs, logits: loud * logits):
            theirs = model(input_ids=ids, use_cache=False).logits
        return torch.allclose((loud * ours).float(), theirs.float(), rtol=1e-4, atol=1e-2)
    finally:
        model.train(training)

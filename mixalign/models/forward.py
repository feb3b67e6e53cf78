"""One forward pass of a batch: log-probability of every completion, with the LM head on their positions only."""

import warnings
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Generator, Tensor, nn

from mixalign.losses.logprobs import gather_logprobs, sum_by_sequence
from mixalign.losses.sampling import sample_linear, sample_logits
from mixalign.models.head import target_logprobs
from mixalign.types import Batch

__all__ = ["Completions", "backbone", "score_completions"]


class Completions(NamedTuple):
    """What a model says of the completions of a batch.

    Attributes:
        logp_BS: log-probability of each completion, nats, summed over supervised tokens; float64.
        correct_BS: supervised tokens that were the model's first choice; None unless asked for.
    """

    logp_BS: Tensor
    correct_BS: Tensor | None


def score_completions(
    model: nn.Module, batch: Batch, count_correct: bool = False, drawn_by: Generator | None = None
) -> Completions:
    """Runs the model over the batch.

    Args:
        model: a causal LM of transformers, with or without PEFT adapters.
        count_correct: whether to count first choices, which costs the logits of all targets.
        drawn_by: scores words that the model itself draws, each behind the batch's own text, in place of the targets.
    """
    logp_N, correct_N = _by_token(model, batch, count_correct, drawn_by)
    shape = batch["num_tokens_BS"].shape
    logp_BS, correct_BS = (
        None if x_N is None else sum_by_sequence(x_N, batch["sequence_N"], shape.numel()).view(shape)
        for x_N in (logp_N, correct_N)
    )
    assert logp_BS is not None
    return Completions(logp_BS, correct_BS)


def _by_token(
    model: Any, batch: Batch, count_correct: bool, drawn_by: Generator | None
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target (N,), and whether it was the first choice."""
    inputs = {"input_ids": batch["input_ids"], "use_cache": False}
    if "segments" in batch:
        from mixalign.models.attention import attention_plan, use_packed_attention  # loads the code of all models

        use_packed_attention(_core(model))
        ids = batch["input_ids"]
        plan = attention_plan(batch["segments"], ids.shape[1], ids.device)
        inputs |= {"position_ids": batch["position_ids"], "segments": plan}
    if not _head_is_plain(model):
        logits_NV = model(**inputs).logits.flatten(0, 1).index_select(0, batch["predict_N"])
    else:
        core = _core(model)
        hidden_NH = backbone(model)(**inputs).last_hidden_state.flatten(0, 1).index_select(0, batch["predict_N"])
        head = core.get_output_embeddings()
        if type(head) is nn.Linear and head.bias is None and not count_correct:
            drawn_N = None if drawn_by is None else sample_linear(hidden_NH, head.weight, drawn_by)
            return target_logprobs(hidden_NH, head.weight, batch["target_N"] if drawn_N is None else drawn_N), None
        logits_NV = head(hidden_NH)
    logp_N = gather_logprobs(logits_NV, batch["target_N"] if drawn_by is None else sample_logits(logits_NV, drawn_by))
    return logp_N, (logits_NV.argmax(1) == batch["target_N"]).float() if count_correct else None


def _core(model: Any) -> Any:
    """The transformers model: PEFT puts its layers inside it, so calling it keeps the adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def backbone(model: Any) -> Any:
    """The module that computes the hidden states; the model itself where it is none of transformers'."""
    core = _core(model)
    return getattr(core, "base_model", core)


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

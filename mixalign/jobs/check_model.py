"""A model that does not fit the rows or the adapter, refused before anything is trained."""

import logging
from collections.abc import Sequence
from typing import Any

from mixalign.data.dataset import TaskDataset
from mixalign.errors import MixalignError
from mixalign.models.dropout import configured_dropout
from mixalign.models.load import LoRA

__all__ = ["check_model", "warn_of_dropout"]

log = logging.getLogger(__name__)


def check_model(model: Any, tokenizer: Any, datasets: Sequence[TaskDataset], lora: LoRA | None) -> None:
    """Compares a model with what it is to read.

    Raises:
        MixalignError: when a token has no embedding, a row is longer than the model's positions, or no part of the
            model takes the adapter.
    """
    if lora is not None:
        lora.check_fits(model)
    _check_vocabulary(model, tokenizer, datasets)
    _check_positions(model, datasets)


def warn_of_dropout(model: Any, form: str) -> None:
    """Says of a model whose configuration has dropout that it is off, where it could act: in supervised training."""
    if form == "supervised" and (rates := configured_dropout(model)):
        log.warning(
            "The model's configuration has dropout (%s), which is off: a base model is trained without. In SFT that of "
            "adapters acts, `lora.lora_dropout`.",
            ", ".join(f"{key}={rate:g}" for key, rate in rates.items()),
        )


def _check_vocabulary(model: Any, tokenizer: Any, datasets: Sequence[TaskDataset]) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) <= rows:
        return  # nearly always; else all tokens are looked at
    largest = max(int(dataset.ids_T.max()) for dataset in datasets)
    if largest >= rows:
        raise MixalignError(
            f"The tokenizer has {len(tokenizer)} tokens, and the rows use number {largest}, but the model has "
            f"{rows} embeddings. Take the model's own tokenizer, or call `resize_token_embeddings` and save both."
        )


def _check_positions(model: Any, datasets: Sequence[TaskDataset]) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return  # of models whose positions have no end
    for dataset in datasets:
        longest = int((dataset.length_NS[:, 0] + dataset.length_NS[:, 1:].max(1)).max())
        if longest > positions:
            raise MixalignError(
                f"Task `{dataset.task}` has a row of {longest} tokens, but the model has only {positions} positions. "
                f"Lower `data.max_length` to {positions}."
            )

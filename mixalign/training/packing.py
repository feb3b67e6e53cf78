"""Whether a model can be trained on packed batches, tried out on a handful of tokens."""

import copy
from typing import Any

import numpy as np
import torch

from mixalign.data.batches.collate import collate
from mixalign.data.batches.pack import pack
from mixalign.data.dataset import TaskDataset
from mixalign.models.forward import score_completions
from mixalign.types import TokenRow, on_device

__all__ = ["why_not_packed"]

TOLERANCE = 1e-3  # nats a sequence, on about twenty tokens in float32


def why_not_packed(model: Any, max_length: int) -> str | None:
    """Why packed attention would change this model's numbers, or None when it would not.

    Layers that carry a state along the sequence, or that look through a window, see a neighbouring row in a pack.

    Args:
        model: a causal LM of transformers; it is copied, not changed.
        max_length: longest row that will be packed.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and window < max_length:
        return f"it attends through a window of {window} tokens"
    try:
        off = _largest_difference(model)
    except Exception as error:  # any family may fail in its own way; it is then trained padded
        return f"a packed batch fails ({type(error).__name__}: {error})"
    return None if off <= TOLERANCE else f"its log-probabilities differ by {off:.2g} nats in a pack"


@torch.no_grad()
def _largest_difference(model: Any) -> float:
    rng = np.random.default_rng(0)
    rows = [_random_row(rng, model.config.get_text_config().vocab_size, size) for size in ((3, 4, 5), (6, 2, 7))]
    dataset = TaskDataset.from_rows("probe", rows, 2)
    device = next(model.parameters()).device
    trial = copy.deepcopy(model).eval()
    padded, packed = (
        score_completions(trial, on_device(layout([dataset], np.zeros(2, int), np.arange(2)), device)).logp_BS
        for layout in (collate, pack)  # in this order: packed attention stays switched on
    )
    return float((padded - packed).abs().max())


def _random_row(rng: np.random.Generator, vocabulary: int, sizes: tuple[int, int, int]) -> TokenRow:
    prompt, chosen, rejected = (rng.integers(0, vocabulary, n) for n in sizes)
    marks = [np.ones(len(c), bool) for c in (chosen, rejected)]
    return TokenRow(row_id=0, prompt=prompt, completions=[chosen, rejected], supervised=marks)

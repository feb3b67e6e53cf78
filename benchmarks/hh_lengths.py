"""Rows with the lengths of HH-RLHF: prompts are long, answers short, and both vary much."""

from typing import Any

import numpy as np
from common import EOS

__all__ = ["make_hh_rows"]

PROMPT, ANSWER = (94, 0.8, 8, 700), (38, 0.65, 4, 400)  # median, spread of the logarithm, least, most tokens


def make_hh_rows(number: int, vocab_size: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of answers as token ids that end with </s>: prompts of 130 tokens on average, answers of 47.

    A pair whose prompt is laid down once has 36 % fewer tokens, and answers are 27 % of a pair's tokens, as in HH-RLHF.
    """
    rng = np.random.default_rng(seed)
    prompt_N = _lengths(rng, number, *PROMPT)
    chosen_N, rejected_N = (_lengths(rng, number, *ANSWER) for _ in range(2))
    rows = []
    for prompt, chosen, rejected in zip(prompt_N, chosen_N, rejected_N, strict=True):
        ids = rng.integers(4, vocab_size, prompt + chosen + rejected - 2)
        first, second, third = np.split(ids, [prompt, prompt + chosen - 1])
        answers = {"chosen": [*second.tolist(), EOS], "rejected": [*third.tolist(), EOS]}
        rows.append({"prompt": first.tolist(), **answers})
    return rows


def _lengths(rng: np.random.Generator, number: int, median: float, spread: float, least: int, most: int) -> np.ndarray:
    return np.clip(np.exp(rng.normal(np.log(median), spread, number)), least, most).astype(int)

"""Rows of single answers with a verdict: pairs taken apart, and the answers of other rows put beside them."""

from collections.abc import Iterator, Sequence

import numpy as np

from mixalign.data.dataset import TaskDataset
from mixalign.data.tokens.chunk import row_id
from mixalign.types import Example, TokenRow

__all__ = ["split_pairs", "with_mismatched"]


def split_pairs(examples: Sequence[Example]) -> list[Example]:
    """Every pair as two rows, `label` true for the chosen answer; first all chosen ones, as TRL orders them.

    Rows that are no pairs keep their places among the chosen ones.
    """
    chosen = [_side(example, "chosen", True) if "chosen" in example else example for example in examples]
    return chosen + [_side(example, "rejected", False) for example in examples if "rejected" in example]


def _side(example: Example, name: str, label: bool) -> Example:
    rest = {key: value for key, value in example.items() if key not in ("chosen", "rejected")}
    return Example(**rest, completion=example[name], label=label)  # type: ignore


def with_mismatched(dataset: TaskDataset, max_length: int) -> TaskDataset:
    """The same rows with a second completion: that of an earlier row, behind this row's prompt.

    It is the completion of the nearest row above that has another prompt; the first rows take that of the last row.
    Where no two neighbours share a prompt, these are TRL's completions rotated by one, with the task as one batch.

    Args:
        dataset: rows with one completion and the column `label`; a column `weight` stays with its rows.
        max_length: tokens of prompt and completion; what goes beyond is cut off. A completion that its own row has cut
            stays so, where TRL would cut it anew.
    """
    label_N = dataset.columns["label"]
    out = TaskDataset.from_rows(dataset.task, list(_mismatched(dataset, label_N, max_length)), num_completions=2)
    for name in ("label", "weight"):
        if name in dataset.columns:
            out.attach(name, dataset.columns[name])
    return out


def _mismatched(dataset: TaskDataset, label_N: np.ndarray, max_length: int) -> Iterator[TokenRow]:
    before, other = None, dataset[len(dataset) - 1]
    for n, label in enumerate(label_N):
        row = dataset[n]
        if before is not None and not np.array_equal(before["prompt"], row["prompt"]):
            other = before
        before = row
        prompt = row["prompt"]
        completion = other["completions"][0][: max_length - len(prompt)]
        mark = np.ones(len(completion), bool)
        mark[: len(prompt) == 0] = False  # nothing precedes the first token, so nothing can predict it
        parts, marks = [prompt, row["completions"][0], completion], [row["supervised"][0], mark]
        yield TokenRow(
            row_id=row_id("mismatched", parts, marks, bool(label)),
            prompt=prompt,
            completions=parts[1:],
            supervised=marks,
        )

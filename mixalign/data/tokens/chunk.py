"""Token ids of single rows to flat arrays: cut, counted, and named by their content.

Workers of a pool import this file and `reader.py`, which therefore leave out torch: a second for each of them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ["Piece", "TokenChunk", "flatten", "row_id"]


@dataclass(frozen=True)
class Piece:
    """Token ids of one row before truncation."""

    full: list[np.ndarray]  # S arrays, int32
    supervised: list[np.ndarray]  # S arrays, bool
    prompt: int  # tokens of the prompt
    mismatch: bool
    label: bool | None = None  # of an unpaired row
    weight: float | None = None  # of the row inside its task


@dataclass(frozen=True)
class TokenChunk:
    """Some rows in the flat form of TaskDataset, and what became of the others."""

    ids_T: np.ndarray  # int32
    supervised_T: np.ndarray  # bool
    length_NS: np.ndarray  # int32 (N, 1 + S)
    row_id_N: np.ndarray  # int64
    prompt_N: np.ndarray  # int64, tokens of the prompt of every row that came in
    label_N: np.ndarray  # bool; empty where rows have no label
    weight_N: np.ndarray  # float32; 1 for rows without one
    weighted: bool  # whether any row has a weight
    problems: list[str]  # of conversations that were looked at: row, and what is wrong
    tally: Counter[str]  # fields of TokenCounts


def flatten(pieces: Iterable[Piece], form: str, max_length: int, problems: list[str]) -> TokenChunk:
    """Truncates rows, or drops them; both are counted.

    Args:
        problems: filled while the pieces are made.
    """
    tally: Counter[str] = Counter()
    num_completions = 2 if form == "preference" else 1
    ids, marks, lengths, row_ids, prompts = [np.zeros(0, np.int32)], [np.zeros(0, bool)], [], [], []
    labels: list[bool] = []
    weights: list[float | None] = []
    for piece in pieces:
        prompts.append(piece.prompt)
        if not _fits(piece, max_length, tally):
            continue
        parts = [piece.full[0][: piece.prompt], *(full[piece.prompt : max_length] for full in piece.full)]
        learned = [mark[piece.prompt : max_length] for mark in piece.supervised]
        tally["same"] += num_completions == 2 and np.array_equal(parts[1], parts[2])
        ids += parts
        marks += [np.zeros(piece.prompt, bool), *learned]
        lengths.append([len(part) for part in parts])
        row_ids.append(row_id(form, parts, learned, piece.label, piece.weight))
        labels += [] if piece.label is None else [piece.label]
        weights.append(piece.weight)
    length_NS = np.array(lengths, np.int32).reshape(-1, 1 + num_completions)
    flat = np.concatenate(ids), np.concatenate(marks), length_NS, np.array(row_ids, np.int64)
    weighted = any(weight is not None for weight in weights)
    weight_N = np.array([1.0 if weight is None else weight for weight in weights], np.float32)
    columns = np.array(prompts, np.int64), np.array(labels, bool), weight_N
    return TokenChunk(*flat, *columns, weighted, problems, tally)


def _fits(piece: Piece, max_length: int, tally: Counter[str]) -> bool:
    if piece.prompt >= max_length:
        tally["dropped_long_prompt"] += 1
        return False
    if not all(mark[piece.prompt : max_length].any() for mark in piece.supervised):
        tally["dropped_unsupervised"] += 1
        return False
    tally["truncated"] += any(len(full) > max_length for full in piece.full)
    tally["prefix_mismatch"] += piece.mismatch
    return True


def row_id(
    form: str,
    parts: list[np.ndarray],
    marks: list[np.ndarray],
    label: bool | None = None,
    weight: float | None = None,
) -> int:
    """63 bits of a hash of everything that the loss reads: the same in every process, on every machine."""
    lengths = np.array([len(part) for part in parts], "<i8")
    arrays = [lengths, *(part.astype("<i4") for part in parts), *marks]
    kind = (form if label is None else f"{form} {label}") + ("" if weight is None else f" weight {weight!r}")
    digest = hashlib.blake2b(b"".join([kind.encode(), b"\0", *(array.tobytes() for array in arrays)])).digest()
    return int.from_bytes(digest[:8], "little") & (2**63 - 1)

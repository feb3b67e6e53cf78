"""Examples to token ids: prompt and completion together, cut where they part, exactly as TRL 1.16 does."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mixalign.checks import check_choice, check_number
from mixalign.data.dataset import TaskDataset
from mixalign.data.tokens.chunk import TokenChunk
from mixalign.data.tokens.join import Joined
from mixalign.data.tokens.plans import TRAIN_ON, ReadOptions
from mixalign.data.tokens.reader import Reader
from mixalign.data.tokens.unpaired import split_pairs, with_mismatched
from mixalign.data.tokens.workers import CHUNK, read_chunks
from mixalign.errors import MixalignError
from mixalign.types import Example, Form

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenCounts", "is_of_transformers", "tokenise"]

log = logging.getLogger(__name__)

# A worker starts in 2 s, and saves the time that Python needs for rows, as the tokenizer itself is threaded: 0.12 ms a
# pair of 300 tokens, 0.26 ms where a template renders it. Two cores: 20,000 such pairs take 10 s with 1 or 2 workers,
# 50,000 take 29 s with 1 and 19 s with 2.
ROWS_A_WORKER = 10_000


@dataclass(frozen=True)
class TokenCounts:
    """What became of the rows of one split of one task."""

    task: str
    rows: int  # rows that came in
    kept: int  # rows of the data set
    dropped_long_prompt: int  # the prompt alone has max_length tokens or more
    dropped_unsupervised: int  # a completion has no token to learn from
    truncated: int  # kept rows that lost tokens at their end
    prefix_mismatch: int  # kept rows whose tokenised prompt is not how prompt and completion together begin
    tokens: int  # of all kept rows, prompts counted once
    supervised_tokens: int  # of all kept rows
    same: int = 0  # kept pairs whose two completions have the same tokens


def tokenise(
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    task: str,
    form: Form,
    max_length: int,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    train_on: str = "assistant",
    day: str | None = None,
    on_lost_text: str = "raise",
    source: str = "train",
    workers: int | None = None,
) -> tuple[TaskDataset, TokenCounts]:
    """Tokenises one split of one task; EOS is appended to plain completions that lack it, never to templated ones.

    A prompt ends where the ids of the prompt alone and of prompt with completion part; a pair's at the earlier place.

    Args:
        examples: rows of one task.
        form: `preference` gives two completions a row (chosen, rejected), `supervised` one; of a preference row that is
            the chosen one. `unpaired` gives one and the column `label`; a preference row is two such rows. `mismatched`
            is the same, with another row's completion as the second.
        max_length: tokens of prompt and completion; what goes beyond is cut off at the end.
        chat_template_kwargs: variables of the chat template; those of a row come before them.
        train_on, day, on_lost_text: see `ReadOptions`.
        task, source: names of the task and the split, for messages.
        workers: processes, which change the time only; None takes one for each 10,000 rows, up to the number of cores.

    Raises:
        MixalignError: when a row does not have the form, the tokenizer lacks EOS or a chat template, the template
            loses a text or does not show what is the assistant's, no row is left, or all pairs have equal answers.
    """
    where = f"Task `{task}` ({source})"
    examples = split_pairs(examples) if form in ("unpaired", "mismatched") else examples
    _check_options(where, form, train_on, on_lost_text)
    how = ReadOptions(form, max_length, dict(chat_template_kwargs or {}), train_on, day, on_lost_text)
    workers, joined = _num_workers(workers, len(examples), tokenizer), Joined()
    chunks = [joined.add(one) for one in read_chunks(Reader(tokenizer, where, how), examples, workers)]
    dataset, tally = joined.dataset(task), sum((chunk.tally for chunk in chunks), Counter())
    rows, supervised = sum(len(chunk.prompt_N) for chunk in chunks), int(dataset.supervised_T.sum())
    if not len(dataset):
        raise MixalignError(_nothing_left(where, tally, chunks, max_length) + _roles_of(examples))
    if tally["same"] == len(dataset):
        raise MixalignError(_nothing_to_prefer(where, len(dataset), max_length))
    _warn_of_problems(where, [problem for chunk in chunks for problem in chunk.problems])
    totals = {"tokens": len(dataset.ids_T), "supervised_tokens": supervised, "same": tally["same"]}
    if form == "mismatched":
        dataset = with_mismatched(dataset, max_length)
    return dataset, TokenCounts(task, rows, len(dataset), *(tally[name] for name in TALLY), **totals)


def _check_options(where: str, form: str, train_on: str, on_lost_text: str) -> None:
    check_choice("train_on", train_on, TRAIN_ON)
    check_choice("data.on_lost_text", on_lost_text, ("raise", "warn"))
    if train_on != "assistant" and form != "supervised":
        raise MixalignError(
            f"{where}: `train_on` is {train_on}, but only objective=sft learns anything else than whole answers. "
            "Remove it, or train with objective=sft."
        )


def _warn_of_problems(where: str, problems: Sequence[str]) -> None:
    if problems:
        more = f" {len(problems) - 1} more of the conversations that were looked at are alike." * (len(problems) > 1)
        log.warning("%s: %s.%s", where, problems[0], more)


def _roles_of(examples: Sequence[Example]) -> str:
    """A sentence on the roles of a first row in which nobody answers; empty where somebody does."""
    turns = examples[0].get("messages", []) if examples else []
    roles = list(dict.fromkeys(turn["role"] for turn in turns))
    if not roles or "assistant" in roles:
        return ""
    return f" The turns of row 1 have the roles {', '.join(roles)}; those of `assistant` are learned."


TALLY = ("dropped_long_prompt", "dropped_unsupervised", "truncated", "prefix_mismatch")


def _nothing_left(where: str, tally: Counter[str], chunks: Sequence[TokenChunk], max_length: int) -> str:
    prompt_N = np.concatenate([chunk.prompt_N for chunk in chunks])
    if not len(prompt_N):
        return f"{where} has no rows. Fill it, or remove the task."
    return (
        f"{where}: none of its {len(prompt_N)} rows is left. {tally['dropped_long_prompt']} have a prompt of "
        f"max_length={max_length} tokens or more, {tally['dropped_unsupervised']} have no completion token "
        f"to learn from; the shortest prompt has {prompt_N.min()} tokens, the longest {prompt_N.max()}. Raise "
        "`max_length` above that, shorten the prompts, or give the rows an answer."
    )


def _nothing_to_prefer(where: str, rows: int, max_length: int) -> str:
    return (
        f"{where}: `chosen` and `rejected` are the same in all {rows} rows that are left, at least up to "
        f"max_length={max_length} tokens, so there is nothing to prefer. Look at the columns or raise `max_length`."
    )


def _num_workers(workers: int | None, rows: int, tokenizer: Any) -> int:
    check_number("data.workers", workers, 1, whole=True, null=True)
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # a class that came with a model's files cannot be imported by a new process
        workers = min(cores, rows // ROWS_A_WORKER) if is_of_transformers(tokenizer) else 1
    return max(1, min(workers, -(-rows // CHUNK)))


def is_of_transformers(tokenizer: Any) -> bool:
    """Whether the code of a tokenizer is that of the library, and not of the user or of a model's files."""
    return type(tokenizer).__module__.startswith("transformers.")

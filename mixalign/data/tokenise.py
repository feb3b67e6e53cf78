"""Examples to token ids: prompt and completion together, cut where they part, exactly as TRL 1.16 does."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mixalign.data.dataset import TaskDataset
from mixalign.data.formats import common_prefix
from mixalign.errors import MixalignError
from mixalign.types import Example, Message, TokenRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenCounts", "tokenise"]

CHUNK = 1024  # examples tokenised at once: enough for all threads, and the encodings are freed in between
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


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


def tokenise(
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    task: str,
    form: Literal["preference", "supervised"],
    max_length: int,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    source: str = "train",
) -> tuple[TaskDataset, TokenCounts]:
    """Tokenises one split of one task.

    The prompt ends where the ids of the prompt alone and of prompt with completion part (for a pair: the
    earlier of the two places). EOS is appended to standard completions that do not end with it, never to
    templated ones.

    Args:
        examples: rows of one task.
        tokenizer: of the model.
        task: name of the task.
        form: `preference` gives two completions a row (chosen, rejected), `supervised` gives one; of a
            preference row that is the chosen one.
        max_length: tokens of prompt and completion; what goes beyond is cut off at the end.
        chat_template_kwargs: variables of the chat template; those of a row come before them.
        source: name of the split, for messages.

    Raises:
        MixalignError: when a row does not have the form, the tokenizer lacks EOS or a chat template, the
            template does not show which tokens are the assistant's, or no row is left.
    """
    reader = _Reader(tokenizer, f"Task `{task}` ({source})", form, dict(chat_template_kwargs or {}))
    tally: Counter[str] = Counter()
    prompts: list[int] = []
    rows = []
    for piece in reader.pieces(examples):
        prompts.append(piece.prompt)
        if row := _fit(piece, form, max_length, tally):
            rows.append(row)
    if not rows:
        raise MixalignError(_nothing_left(f"Task `{task}` ({source})", tally, prompts, max_length))
    dataset = TaskDataset.from_rows(task, rows, 2 if form == "preference" else 1)
    totals = {"tokens": len(dataset.ids_T), "supervised_tokens": int(dataset.supervised_T.sum())}
    return dataset, TokenCounts(task, len(prompts), len(rows), *(tally[name] for name in TALLY), **totals)


TALLY = ("dropped_long_prompt", "dropped_unsupervised", "truncated", "prefix_mismatch")


@dataclass(frozen=True)
class _Texts:
    """What has to be tokenised for one row."""

    prompt: str
    full: list[str]  # prompt and completion, S times
    edges: list[str] | None = None  # where supervised spans begin and end, in turn; None: all of the completion


@dataclass(frozen=True)
class _Piece:
    """Token ids of one row before truncation."""

    full: list[list[int]]  # S lists
    supervised: list[np.ndarray]  # S arrays, bool
    prompt: int  # tokens of the prompt
    mismatch: bool


def _fit(piece: _Piece, form: str, max_length: int, tally: Counter[str]) -> TokenRow | None:
    """Truncates a row, or drops it; both are counted."""
    if piece.prompt >= max_length:
        tally["dropped_long_prompt"] += 1
        return None
    ids = [np.array(full[:max_length], np.int32) for full in piece.full]
    marks = [mark[piece.prompt : max_length] for mark in piece.supervised]
    if not all(mark.any() for mark in marks):
        tally["dropped_unsupervised"] += 1
        return None
    tally["truncated"] += any(len(full) > max_length for full in piece.full)
    tally["prefix_mismatch"] += piece.mismatch
    prompt, completions = ids[0][: piece.prompt], [one[piece.prompt :] for one in ids]
    row_id = _row_id(form, prompt, completions, marks)
    return TokenRow(row_id=row_id, prompt=prompt, completions=completions, supervised=marks)


def _row_id(form: str, prompt: np.ndarray, completions: list[np.ndarray], marks: list[np.ndarray]) -> int:
    """63 bits of a hash of everything that the loss reads: the same in every process, on every machine."""
    lengths = np.array([len(prompt), *map(len, completions)], "<i8")
    parts = [lengths, *(part.astype("<i4") for part in (prompt, *completions)), *marks]
    digest = hashlib.blake2b(b"".join([form.encode(), b"\0", *(part.tobytes() for part in parts)])).digest()
    return int.from_bytes(digest[:8], "little") & (2**63 - 1)


def _nothing_left(where: str, tally: Counter[str], prompts: list[int], max_length: int) -> str:
    if not prompts:
        return f"{where} has no rows. Fill it, or remove the task."
    return (
        f"{where}: none of its {len(prompts)} rows is left. {tally['dropped_long_prompt']} have a prompt of "
        f"max_length={max_length} tokens or more, {tally['dropped_unsupervised']} have no completion token "
        f"to learn from; the shortest prompt has {min(prompts)} tokens, the longest {max(prompts)}. Raise "
        "`max_length` above that, shorten the prompts, or give the rows an answer."
    )


class _Reader:
    """Renders and tokenises rows of one task; `where` begins every message."""

    def __init__(self, tokenizer: Any, where: str, form: str, kwargs: dict[str, Any]) -> None:
        self.tokenizer, self.where, self.form, self.kwargs = tokenizer, where, form, kwargs
        self.bos, self.eos = tokenizer.bos_token, tokenizer.eos_token
        probe = tokenizer("a")["input_ids"]
        self.adds_bos = self.bos is not None and probe[:1] == [tokenizer.bos_token_id]
        self.adds_eos = self.eos is not None and probe[-1:] == [tokenizer.eos_token_id]

    def pieces(self, examples: Sequence[Example]) -> Iterator[_Piece]:
        for start in range(0, len(examples), CHUNK):
            yield from self._chunk(examples[start : start + CHUNK], start + 1)

    def _chunk(self, examples: Sequence[Example], first: int) -> Iterator[_Piece]:
        """Two calls of the tokenizer for all texts: the standard ones, and those that a template wrote."""
        plans = [self._plan(example, f"row {n}") for n, example in enumerate(examples, first)]
        wanted: dict[bool, dict[str, list[int]]] = {True: {}, False: {}}
        for templated, plan in plans:
            if isinstance(plan, _Texts):
                wanted[templated].update({text: [] for text in (plan.prompt, *plan.full, *(plan.edges or []))})
        for templated, texts in wanted.items():
            texts.update(zip(list(texts), self._ids(list(texts), templated), strict=True))
        for templated, plan in plans:
            yield plan if isinstance(plan, _Piece) else _assemble(plan, wanted[templated])

    def _ids(self, texts: list[str], templated: bool) -> list[list[int]]:
        """A template writes BOS itself; standard text gets what the tokenizer adds, but never twice."""
        if not texts:
            return []
        options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        lists = self.tokenizer(texts, add_special_tokens=not templated, **options)["input_ids"]
        if templated or not (self.adds_bos or self.adds_eos):
            return lists
        # the end is dropped because completions carry EOS as text, and prompts go on
        end = -1 if self.adds_eos else None
        begins = [int(self.adds_bos and text.startswith(self.bos)) for text in texts]
        return [ids[begin:end] for begin, ids in zip(begins, lists, strict=True)]

    def _plan(self, example: Example, row: str) -> tuple[bool, _Texts | _Piece]:
        """Whether a template writes the row's texts, and the texts."""
        if self.form == "preference" and "chosen" not in example:
            raise MixalignError(
                f"{self.where}: {row} has no `chosen` and `rejected`, but objective=dpo needs preference "
                "rows. Give the task such rows, or train with objective=sft."
            )
        if "messages" in example:
            return True, self._messages(example, row)
        prompt: Any = example["prompt"]
        names = ("chosen", "rejected") if self.form == "preference" else (next(iter({*example} & ANSWERS)),)
        answers: list[Any] = [example[name] for name in names]  # type: ignore[literal-required]
        if isinstance(prompt, str):
            return False, _Texts(prompt, [prompt + self._ended(answer) for answer in answers])
        full = [self._render(prompt + answer, example, row) for answer in answers]
        return True, _Texts(self._render(prompt, example, row, generation=True), full)

    def _ended(self, completion: str) -> str:
        if not self.eos:
            raise MixalignError(
                f"{self.where}: the tokenizer has no EOS token, so the model could not learn where an answer "
                "ends. Set `tokenizer.eos_token` and save the tokenizer with the model."
            )
        return completion if completion.endswith(self.eos) else completion + self.eos

    def _messages(self, example: Example, row: str) -> _Texts | _Piece:
        """Only the assistant's turns are learned: what each one adds to the generation prompt."""
        messages = example["messages"]
        full = self._render(messages, example, row)
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        edges = [self._edges(messages, i, full, example, row) for i in turns]
        if all(edges):
            flat = [text for edge in edges if edge for text in edge]
            return _Texts(flat[0] if flat else full, [full], flat)
        if GENERATION.search(self.tokenizer.get_chat_template(tools=example.get("tools"))):
            return self._masked(messages, example)
        raise MixalignError(
            f"{self.where}: the chat template renders the beginning of {row} differently once more turns "
            "follow, so the tokens of the assistant's turns cannot be found. Use a template with {% "
            "generation %} around them, or give rows with `prompt` and `completion`."
        )

    def _edges(
        self, messages: list[Message], turn: int, full: str, example: Example, row: str
    ) -> tuple[str, str] | None:
        """The text up to a turn's answer and up to its end; None when the whole text does not begin so."""
        end = full if turn + 1 == len(messages) else self._render(messages[: turn + 1], example, row)
        start = self._render(messages[:turn], example, row, generation=True) if turn else ""
        # a generation prompt may end in something that a finished turn lacks, such as an empty thought: then
        # the turns before it must match, and the answer begins where the ids part
        known = full.startswith(start) or full.startswith(self._render(messages[:turn], example, row))
        return (start, end) if known and full.startswith(end) else None

    def _masked(self, messages: list[Message], example: Example) -> _Piece:
        encoded = self.tokenizer.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **self._variables(example),
        )
        mask = np.array(encoded["assistant_masks"], bool)
        prompt = int(mask.argmax()) if mask.any() else len(mask)
        mask[:1] = False  # nothing precedes the first token
        return _Piece([list(encoded["input_ids"])], [mask], prompt, False)

    def _render(self, messages: list[Message], example: Example, row: str, generation: bool = False) -> str:
        from jinja2 import TemplateError  # what a template raises on turns that it does not allow

        if self.tokenizer.chat_template is None:
            raise MixalignError(
                f"{self.where}: {row} is a conversation, but the tokenizer has no chat template. Use the "
                "tokenizer of a chat model, set `tokenizer.chat_template`, or give rows of plain text."
            )
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation, **self._variables(example)
            )
        except (TemplateError, TypeError) as error:
            raise MixalignError(f"{self.where}: the chat template refuses {row}: {error}. Correct the row.") from error

    def _variables(self, example: Example) -> dict[str, Any]:
        return {"tools": example.get("tools"), **self.kwargs, **example.get("chat_template_kwargs", {})}


ANSWERS = {"completion", "chosen"}  # what a supervised row learns; a row has one of them


def _assemble(texts: _Texts, ids: Mapping[str, list[int]]) -> _Piece:
    full = [ids[text] for text in texts.full]
    prompt = min(common_prefix(ids[texts.prompt], one) for one in full)
    marks = [np.full(len(one), texts.edges is None) for one in full]
    if texts.edges is not None:
        edges = [common_prefix(ids[text], full[0]) for text in texts.edges]
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            marks[0][start:end] = True
    for mark in marks:
        mark[: max(prompt, 1)] = False  # nothing precedes the first token, so nothing can predict it
    return _Piece(full, marks, prompt, prompt < len(ids[texts.prompt]))

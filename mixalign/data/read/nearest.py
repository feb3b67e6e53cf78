"""What is said of a row that is of no format: the formats that come nearest to its columns, and how to name these."""

import difflib
from collections.abc import Iterable, Sequence

from mixalign.data.read.pairs import QUESTIONS

__all__ = ["columns_for", "nearest_formats"]

Format = tuple[str, ...]
"""Columns that a format requires."""

SHOWN = 4
SECOND = {"rejected", "rejected_response", "rejected_messages", "non_preferred_output", "completions"}
SECOND |= {"response_1", "response_2", "response2", "rejected_ids"}  # a column of pairs alone
USUAL = {
    "preference": [("prompt", "chosen", "rejected"), ("chosen", "rejected")],
    "supervised": [("prompt", "completion"), ("messages",), ("text",)],
    "unpaired": [("prompt", "completion"), ("messages",)],
}
"""What is shown where the columns resemble nothing."""

MEANT = {
    "prompt": QUESTIONS,
    "instruction": QUESTIONS,
    "completion": {"answer", "response", "output", "target", "solution", "reply", "assistant", "generation"},
    "output": {"answer", "response", "completion", "target", "solution", "reply", "assistant", "generation"},
    "chosen": {"better", "preferred", "good", "best", "accepted", "positive", "winner", "win"},
    "rejected": {"worse", "dispreferred", "bad", "worst", "refused", "negative", "loser", "lose"},
    "messages": {"conversation", "dialogue", "dialog", "chat", "turns"},
    "text": {"content", "document", "body"},
    "label": {"verdict", "liked", "desirable"},
}
"""Our columns, and what others call them."""


def nearest_formats(names: Sequence[str], formats: Iterable[Format], kinds: Sequence[str]) -> list[str]:
    """The formats that come nearest, nearest first, such as `prompt + completion`.

    Args:
        names: columns of the row.
        formats: all of them, in the order in which they are tried.
        kinds: of rows that the objective learns from, the first one first; none: all alike.
    """
    known = list(formats)
    likeness = {columns: _likeness(columns, names) for columns in known}
    wanted = [columns for columns in known if not kinds or _kind_rank(columns, kinds) < len(kinds)]
    order = sorted(wanted, key=lambda columns: (_kind_rank(columns, kinds), -likeness[columns]))
    near = [columns for columns in order if likeness[columns] > 0]
    usual = [columns for kind in (kinds or ("preference", "supervised")) for columns in USUAL[kind]]
    shown = list(dict.fromkeys([*near, *usual] if len(near) < 2 else near))[:SHOWN]
    label = " + label" if kinds[:1] == ("unpaired",) else ""
    return [" + ".join(columns) + (label if _kind(columns) != "preference" else "") for columns in shown]


def columns_for(names: Sequence[str], kinds: Sequence[str]) -> str:
    """The setting `columns=` that makes the row one of a usual format; where it cannot be told, an example of that."""
    usual = [columns for kind in (kinds or ("preference", "supervised")) for columns in USUAL[kind]]
    for columns in usual:
        found = {ours: theirs for ours in columns if (theirs := _meant(ours, names))}
        if len(found) == len(columns) == len({*found.values()}):
            return _setting(found)
    columns = usual[0] if kinds else USUAL["supervised"][0]
    known = {ours: theirs for ours in columns if (theirs := _meant(ours, names))}
    spare = iter([name for name in names if name not in known.values()])
    return _setting({ours: known.get(ours) or next(spare, f"YOUR_{ours.upper()}") for ours in columns})


def _setting(found: dict[str, str]) -> str:
    return f"columns={{{', '.join(f'{ours}: {theirs}' for ours, theirs in found.items() if ours != theirs)}}}"


def _kind(columns: Format) -> str:
    return "preference" if SECOND & {*columns} else "supervised"


def _kind_rank(columns: Format, kinds: Sequence[str]) -> int:
    """The place of a format's kind; an answer may have a label, and then be of the kind `unpaired`."""
    kind = _kind(columns)
    ranks = [n for n, name in enumerate(kinds) if name == kind or (name == "unpaired" and kind == "supervised")]
    return min(ranks, default=len(kinds))


def _likeness(columns: Format, names: Sequence[str]) -> float:
    """The share of a format's columns that a row has, by a name that is the same or nearly so."""
    return sum(1.0 if name in names else 0.5 if _meant(name, names) else 0.0 for name in columns) / len(columns)


def _meant(ours: str, names: Sequence[str]) -> str | None:
    """The row's column that is ours, under that name, a near one, or one that others give it."""
    if ours in names:
        return ours
    for name in names:
        if name.lower() in MEANT.get(ours, ()) or name.lower() == ours:
            return name
    return next(iter(difflib.get_close_matches(ours, names, n=1, cutoff=0.75)), None)

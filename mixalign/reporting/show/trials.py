"""Trials of a search as a table, for the page and for a terminal."""

import math

from mixalign.reporting.read.trials import Search, Trial
from mixalign.reporting.show.tables import Table
from mixalign.terminal import Column, counted, table_text

__all__ = ["failures", "search_text", "sentences", "trials_table"]


def trials_table(search: Search) -> Table:
    """One row a trial, best first: its values, what became of it, and what it is judged by."""
    rows = [
        [
            str(one.number),
            *(one.values.get(key, "-") for key in search.keys),
            f"{one.state} (best)" if one is search.best else one.state,
            _value(one),
        ]
        for one in search.trials
    ]
    caption = (
        f"Sorted by {search.quantity} on validation rows, in nats: of the weights that a complete trial kept, and in "
        "brackets of the last validation, at that step, of one that was pruned (it was above the median of the "
        "others, or no number)."
    )
    return Table(["trial", *search.keys, "state", search.quantity], rows, caption)


def _value(one: Trial) -> str:
    if math.isnan(one.value):
        return "-"
    return f"{one.value:.4f}" if one.state == "complete" else f"({one.value:.4f}, step {one.step:.0f})"


def sentences(search: Search) -> list[str]:
    """Which trial is the best, and how many ended how."""
    states = [one.state for one in search.trials]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    again = f"; {search.repeats} more had values that were tried before" if search.repeats else ""
    number = counted(len(states), "different trial")
    words = [f"{number}, by {search.quantity} on validation rows: {', '.join(counts)}{again}."]
    if search.best is not None:
        values = " ".join(f"{key}={value}" for key, value in search.best.values.items())
        words.append(f"Best: trial {search.best.number}, {search.best.value:.4f} nats, with {values}.")
        words.append(
            "As the best of many it is better on the rows it was chosen by than on others: test rows tell how good "
            "it is."
        )
    return words


def failures(search: Search) -> list[str]:
    """Why trials failed, each reason once with all trials that have it."""
    reasons: dict[str, list[str]] = {}
    for one in search.trials:
        if one.state == "failed":
            reasons.setdefault(one.reason, []).append(str(one.number))
    return [f"trial{'s' if len(ns) > 1 else ''} {', '.join(ns)} failed: {why}" for why, ns in reasons.items()]


def search_text(search: Search) -> str:
    """The trials for a terminal, with what to do next."""
    rows = [
        [one.folder or str(one.number), " ".join(f"{key}={value}" for key, value in one.values.items()), _ended(one)]
        for one in search.trials
    ]
    heads = [Column("trial", text=True), Column("values", text=True), Column("validation")]
    note = failures(search)
    if search.best is not None:
        note += [f"best: {search.folder / search.best.folder}"]
        note += [f"next: `mixalign report {search.folder}` compares the finished ones on test rows"]
    return table_text(heads, rows, title=sentences(search)[0], note="\n".join(note))


def _ended(one: Trial) -> str:
    if one.state == "complete":
        return f"{one.value:.4f}"
    return "ended early" if one.state == "pruned" else one.state

"""The rounds of a run as a table for the terminal."""

from typing import Any

from mixalign.terminal import Column, table_text

__all__ = ["rounds_table"]


def rounds_table(rounds: list[dict[str, Any]], best: int) -> str:
    """Volumes, benefits with the confidence in their sign, and target losses of every round.

    Args:
        rounds: entries of `eval.json`: volumes and target losses by task; benefits where they were measured.
        best: number of the round that was kept.
    """
    columns: list[str | Column] = ["task"]
    for entry in rounds:
        name = f"round {entry['round'] + 1}{' (kept)' if entry['round'] == best else ''}"
        columns += [Column(title, group=name) for title in (name, "benefit", "loss")]
    tasks = list(dict.fromkeys([*rounds[0]["volumes"], *rounds[0]["target_loss"]]))
    rows = [[task, *(cell for entry in rounds for cell in _cells(entry, task))] for task in tasks]
    mean = ["mean", *(cell for entry in rounds for cell in ("", "", f"{entry['mean_target_loss']:.4f}"))]
    title = "Rounds: volume, benefit (confidence in its sign), target loss in nats"
    stopped = rounds[-1].get("stopped")
    note = f"ended early: {stopped}" if stopped else ""
    return table_text(columns, rows, totals=[mean], title=title, note=note)


def _cells(entry: dict[str, Any], task: str) -> tuple[str, str, str]:
    volume, loss = entry["volumes"].get(task), entry["target_loss"].get(task)
    benefit = ""
    if task in entry.get("benefit", {}):
        benefit = f"{entry['benefit'][task]:+.2g} ({entry['confidence'][task]:.0%})"
    return ("" if volume is None else f"{volume:,}", benefit, "" if loss is None else f"{loss:.4f}")

"""The rounds of a run as a table for the terminal."""

from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["rounds_table"]


def rounds_table(rounds: list[dict[str, Any]], best: int) -> str:
    """Volumes, benefits with the confidence in their sign, and reference losses of every round.

    Args:
        rounds: entries of `eval.json`: volumes and reference losses by task; benefits where they were measured.
        best: number of the round that was kept.
    """
    table = Table("task", title="Rounds: volume, benefit (confidence in its sign), reference loss in nats")
    for entry in rounds:
        mark = " (kept)" if entry["round"] == best else ""
        for head in (f"round {entry['round'] + 1}{mark}", "benefit", "loss"):
            table.add_column(head, justify="right")
    tasks = list(dict.fromkeys([*rounds[0]["volumes"], *rounds[0]["reference_loss"]]))
    for task in tasks:
        table.add_row(task, *(cell for entry in rounds for cell in _cells(entry, task)))
    table.add_section()
    means = [("", "", f"{entry['mean_reference_loss']:.4f}") for entry in rounds]
    table.add_row("mean", *(cell for cells in means for cell in cells))
    text = StringIO()
    Console(file=text, width=130).print(table)
    stopped = rounds[-1].get("stopped")
    return text.getvalue().rstrip() + (f"\nended early: {stopped}" if stopped else "")


def _cells(entry: dict[str, Any], task: str) -> tuple[str, str, str]:
    volume, loss = entry["volumes"].get(task), entry["reference_loss"].get(task)
    benefit = ""
    if task in entry.get("benefit", {}):
        benefit = f"{entry['benefit'][task]:+.2g} ({entry['confidence'][task]:.0%})"
    return ("" if volume is None else f"{volume:,}", benefit, "" if loss is None else f"{loss:.4f}")

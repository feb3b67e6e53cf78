"""The rounds of a run as a table for the terminal."""

from math import isfinite
from typing import Any

from mixalign.terminal import Column, table_text

__all__ = ["rounds_table"]

SCALE = (
    "Benefits speak of a model that is trained to the end. After a short training they promise too much: signs and "
    "ratios hold better than the size."
)
"""Measured on the generated tasks (0.02 M weights, 3 tasks of 200 rows, volumes +- 30 %, SFT with batches of 16, two
seeds, predicted over actual change of each target's loss): 3 to 16 times after 30 steps, all signs right; 0.2 to 3
times after 300. A direction of little curvature counts as if it had been followed to its end, which takes 1 / (learning
rate x curvature) steps."""


def rounds_table(rounds: list[dict[str, Any]], best: int) -> str:
    """Volumes, benefits with the confidence in their sign, and target losses of every round; changes of the losses.

    Rounds are counted from 0, the one on the volumes as they are, as their folders are.

    Args:
        rounds: entries of `eval.json`: volumes and target losses by task; benefits where they were measured.
        best: number of the round that was kept.
    """
    columns: list[str | Column] = ["task"]
    for entry in rounds:
        name = f"round {entry['round']}{' (kept)' if entry['round'] == best else ''}"
        columns += [Column(title, group=name) for title in (name, "benefit", "loss")]
    tasks = list(dict.fromkeys([*rounds[0]["volumes"], *rounds[0]["target_loss"]]))
    rows = [[task, *(cell for entry in rounds for cell in _cells(entry, task))] for task in tasks]
    mean = ["mean", *(cell for entry in rounds for cell in ("", "", _shown(entry["mean_target_loss"], ".4f")))]
    title = "Rounds: volume, benefit (confidence in its sign), target loss in nats"
    stopped = rounds[-1].get("stopped")
    note = f"ended early: {stopped}" if stopped else ""
    made = table_text(columns, rows, totals=[mean], title=title, note=note)
    changed = _changes([entry for entry in rounds if "change" in entry])
    return f"{made}\n\n{changed}" if changed else made


def _changes(rounds: list[dict[str, Any]]) -> str:
    """Predicted and actual changes of the target losses since the round before; empty without a second round."""
    if not rounds:
        return ""
    columns: list[str | Column] = ["target"]
    for entry in rounds:
        columns += [
            Column(title, group=str(entry["round"])) for title in (f"round {entry['round']}: predicted", "actual")
        ]

    def cells(*values: float | None) -> list[str]:
        return ["" if value is None else _shown(value, "+.4f") for value in values]

    def row(name: str, pairs: list[tuple[float | None, float | None]]) -> list[str]:
        return [name, *(cell for pair in pairs for cell in cells(*pair))]

    by_target = [(entry.get("predicted_change", {}), entry["change"]) for entry in rounds]
    rows = [row(table, [(p.get(table), a[table]) for p, a in by_target]) for table in rounds[0]["change"]]
    mean = row("mean", [(entry.get("mean_predicted_change"), entry["mean_change"]) for entry in rounds])
    title = "Change of the target loss since the round before, as the benefits predicted it and as it came, in nats"
    return table_text(columns, rows, totals=[mean], title=title, note=SCALE * bool(rounds[0].get("predicted_change")))


def _cells(entry: dict[str, Any], task: str) -> tuple[str, str, str]:
    volume, loss = entry["volumes"].get(task), entry["target_loss"].get(task)
    benefit = ""
    if task in entry.get("benefit", {}):
        benefit = f"{_shown(entry['benefit'][task], '+.2g')} ({entry['confidence'][task]:.0%})"
    return ("" if volume is None else f"{volume:,}", benefit, "" if loss is None else _shown(loss, ".4f"))


def _shown(value: float, spec: str) -> str:
    return f"{value:{spec}}" if isfinite(value) else "n/a"

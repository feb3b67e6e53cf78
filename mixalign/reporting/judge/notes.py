"""What a reader must know before trusting the numbers of a comparison."""

import math
from collections.abc import Mapping, Sequence

from mixalign.final_rows import FinalRows
from mixalign.reporting.judge.same_specialists import losses_differ
from mixalign.reporting.read.differences import differing_keys
from mixalign.reporting.read.runs import Run

__all__ = ["notes_on"]


def notes_on(runs: Sequence[Run], titles: Mapping[str, str], differing: Sequence[str]) -> list[str]:
    """A sentence on everything that makes the numbers of these runs unlike.

    Args:
        titles: What the scores that are shown are called, by name.
        differing: What differs between the specialists over which their excess is.
    """
    notes = [_other_specialists(differing)] if differing else []
    if not differing and "worst_excess" not in titles:
        notes.append("No run has specialist losses, so there is no excess: the worst loss is used.")
    for what, values in (("objectives", {r.objective for r in runs}), ("splits", {r.split for r in runs})):
        if len(values) > 1:
            names = ", ".join(sorted(map(str, values)))
            notes.append(f"The runs have different {what} ({names}): their numbers do not compare.")
    if len({frozenset(run.eval["tasks"]) for run in runs}) > 1:
        notes.append("The runs were not evaluated on the same tasks: worst and mean do not compare.")
    for run in runs:
        lost = [title for name, title in titles.items() if math.isnan(run.score(name))]
        if lost:
            notes.append(f"{run.label} seed {run.seed} has no {', '.join(lost)}; it is left out there.")
    if caution := FinalRows.of(run.eval for run in runs).caution:
        notes.append(caution)
    notes += [f"{r.label} seed {r.seed} was stopped {r.eval['stopped']}." for r in runs if r.eval.get("stopped")]
    return notes + _unequal_settings(runs)


def _other_specialists(differing: Sequence[str]) -> str:
    note = (
        f"The runs' excess is over different specialists, and does not compare: {', '.join(differing)}. They are "
        "ranked by the worst loss. `specialists.of=first` gives all runs of a sweep the same specialists, and "
        "`specialists.of=RUN` those of a run."
    )
    if losses_differ(differing):
        note += " What their losses are measured by differs too: these do not compare either."
    return note


def _unequal_settings(runs: Sequence[Run]) -> list[str]:
    """A note on numbers outside the mixer that differ, such as the steps: more than the mixer is compared."""
    differ = []
    for key in differing_keys(runs):
        given = [run.settings.get(key) for run in runs]
        values = {value for value in given if isinstance(value, int | float)}
        others = [value for value in given if not isinstance(value, int | float | list)]
        if not key.startswith("mixer.") and values and not others:
            differ.append(f"{key} ({', '.join(f'{value:g}' for value in sorted(values))})")
    return [f"The runs differ in more than the mixer: {', '.join(differ)}."] if differ else []

"""Searches of `mixalign sweep`, read back: what was tried, and what came of it."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from mixalign.errors import MixalignError
from mixalign.reporting.read.files import number, read_object
from mixalign.reporting.read.runs import Run

__all__ = ["TRIALS", "Search", "State", "Trial", "ended_by_search", "read_search", "searches_of"]

log = logging.getLogger(__name__)
TRIALS = "trials.json"
State = Literal["complete", "pruned", "unfinished", "failed"]  # in the order of a table


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        folder: name of its run folder within that of the search; empty where nothing was trained.
        values: key -> value, as on the command line, of those that differ between trials.
        value: what it is judged by, on validation rows; of a pruned one the last validation; NaN where there is none.
        step: of the last validation; NaN where there was none.
        same_as: the trial that had the same values before it, whose result it has.
        reason: why it was pruned or failed.
    """

    number: int
    folder: str
    values: Mapping[str, str]
    state: State
    value: float
    step: float
    same_as: int | None = None
    monitor: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Search:
    """All trials of one search.

    Attributes:
        trials: best first: complete ones by their value, then pruned, unfinished and failed ones.
        repeats: how many more there are, whose values were tried before.
    """

    folder: Path
    trials: tuple[Trial, ...]
    repeats: int = 0

    @property
    def best(self) -> Trial | None:
        """The complete trial with the lowest value."""
        return next((one for one in self.trials if one.state == "complete"), None)

    @property
    def keys(self) -> list[str]:
        """What differs between trials, in the order of the command."""
        longest = sorted(self.trials, key=lambda one: -len(one.values))
        return list(dict.fromkeys(key for one in longest for key in one.values))

    @property
    def quantity(self) -> str:
        """What trials are judged by, as in `worst excess`."""
        known = next((one.monitor for one in self.trials if one.monitor), "eval/worst_excess")
        return known.rpartition("/")[2].replace("_", " ")


def searches_of(paths: Iterable[Path], runs: Sequence[Run]) -> list[Search]:
    """The searches that lie in some folders, or that made runs below them, without those that cannot be read."""
    given = list(paths)
    above = [run.path.parent for run in runs if run.path not in given]
    found = []
    for place in dict.fromkeys([*given, *above]):
        if (place / TRIALS).is_file():
            try:
                found.append(read_search(place))
            except MixalignError as error:
                log.warning("%s The table of the trials is left out.", error)
    return found


def read_search(folder: Path) -> Search:
    """The search in a folder.

    Raises:
        MixalignError: its `trials.json` cannot be read.
    """
    path = folder / TRIALS
    entries = read_object(path).get("trials")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise MixalignError(f"`{path}`: `trials` is no list of objects. The same `mixalign sweep` writes it again.")
    trials = [_trial(path, entry) for entry in entries]
    own = [one for one in trials if one.same_as is None]
    states = get_args(State)
    own.sort(key=lambda one: (states.index(one.state), *_last_where_nan(one.value), one.number))
    return Search(folder, tuple(own), len(trials) - len(own))


def _trial(path: Path, entry: Mapping[str, Any]) -> Trial:
    values = entry.get("values")
    if entry.get("state") not in get_args(State) or not isinstance(values, dict) or "number" not in entry:
        raise MixalignError(f"`{path}`: a trial has no number, values or state. The same `mixalign sweep` mends it.")
    return Trial(
        entry["number"],
        str(entry.get("folder") or ""),
        {str(key): str(value) for key, value in values.items()},
        entry["state"],
        number(entry.get("value")),
        number(entry.get("step")),
        entry.get("same_as"),
        str(entry.get("monitor") or ""),
        str(entry.get("reason") or ""),
    )


def _last_where_nan(value: float) -> tuple[bool, float]:
    return (True, 0.0) if value != value else (False, value)


def ended_by_search(runs: Sequence[Run], searches: Sequence[Search]) -> list[Run]:
    """The runs; those that a search ended say so, and not that they are unfinished."""
    why = {
        search.folder / one.folder: f"{one.state} trial {one.number} of the search"
        for search in searches
        for one in search.trials
        if one.state != "complete" and one.folder
    }
    return [replace(run, skipped=why[run.path]) if run.skipped and run.path in why else run for run in runs]

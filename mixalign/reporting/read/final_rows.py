"""Which rows the final numbers of runs are of: test rows, or where a task has none, validation rows."""

from collections.abc import Iterable
from dataclasses import dataclass

from mixalign.reporting.read.runs import Run

__all__ = ["FinalRows"]


@dataclass(frozen=True)
class FinalRows:
    """What numbers at the end of a training are called, and what a reader must know of them.

    Attributes:
        word: `test`, `validation`, or `final` where tasks differ.
        caution: a sentence; empty where training never looked at any of the rows.
    """

    word: str
    caution: str = ""

    @classmethod
    def of(cls, runs: Iterable[Run]) -> "FinalRows":
        """Those of some runs, by the `split` of each task's entry."""
        entries = [(task, row, run.split) for run in runs for task, row in (run.eval.get("tasks") or {}).items()]
        seen = list(dict.fromkeys(task for task, row, split in entries if row.get("split", split) == "validation"))
        if not seen:
            return cls("test")
        whole = all(row.get("split", split) == "validation" for _, row, split in entries)
        names = "all tasks" if whole else ", ".join(seen)
        return cls(
            "validation" if whole else "final",
            f"The numbers of {names} are of validation rows, as there are no test rows: those by which the weights "
            "that are kept were chosen, too, so that they are better than on new rows. Give the task a test split.",
        )

"""Which rows the final numbers of runs are of: test rows, or where a task has none, validation rows.

All that shows such numbers (terminal, page, model card, log) takes its words from here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FinalRows"]


@dataclass(frozen=True)
class FinalRows:
    """What numbers at the end of a training are called, and what a reader must know of them.

    Attributes:
        word: `test`, `validation`, or `test or validation` where tasks differ.
        caution: sentences; empty where training never looked at any of the rows.
        note: the first of them, for what stands below each table.
    """

    word: str
    caution: str = ""
    note: str = ""

    @classmethod
    def of(cls, results: Iterable[Mapping[str, Any]]) -> "FinalRows":
        """Those of some runs.

        Args:
            results: what each one's `eval.json` holds: `tasks`, by name, with the `split` of each, and the run's own
                `split` for tasks that say none, as in runs of older versions.
        """
        found = [
            (task, row.get("split", result.get("split")) == "validation")
            for result in results
            for task, row in (result.get("tasks") or {}).items()
        ]
        seen = list(dict.fromkeys(f"`{task}`" for task, of_validation in found if of_validation))
        if not seen:
            return cls("test")
        whole = all(of_validation for _, of_validation in found)
        names = "all tasks" if whole else ", ".join(seen)
        note = f"The numbers of {names} are of validation rows, as there are no test rows."
        return cls(
            "validation" if whole else "test or validation",
            f"{note} Training looks at these, to choose what it keeps, so the numbers are better than on new rows. "
            "Give each task test rows (`data.tasks.<name>.test`).",
            note,
        )

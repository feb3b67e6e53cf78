"""Words on the final numbers of runs: of which rows they are, what accuracy is, whose specialist is behind the model.

All that shows such numbers (terminal, page, model card, log) takes its words from here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["FinalRows", "accuracy_means", "behind_the_model", "is_far_behind", "lowest_of"]

ACCURACY = {
    "sft": "share of answer tokens that are ranked first",
    "kto": "share of answers on the side of their label",
    "dpo": "share of pairs whose chosen answer is ranked first",
}
ABOUT = 0.05  # of its loss: two models that differ by less are about as good
CLEAR = 0.01  # of its loss: a specialist that is behind by less is not said to be; nor one
MIXED = 0.1  # that is ahead on rows that make up more than this share of how far it is behind,
FEW = 8  # nor by fewer rows: all of them on one side are chance once in 250


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


def accuracy_means(result: Mapping[str, Any]) -> str:
    """What accuracy is the share of, by what an `eval.json` holds; of an unknown objective, by whether it has pairs."""
    has_margin = any("margin" in row for row in (result.get("tasks") or {}).values())
    return ACCURACY.get(str(result.get("objective")), ACCURACY["dpo" if has_margin else "sft"])


def lowest_of(monitor: str) -> str:
    """By what weights were chosen: `eval/worst_excess` as `the lowest worst excess on validation rows`."""
    return f"the lowest {monitor.removeprefix('eval/').replace('_', ' ')} on validation rows"


def is_far_behind(row: Mapping[str, Any]) -> bool:
    """Whether a task's specialist gained less than half of what the model did, and is not just about as good."""
    numbers = _numbers(row, "start_loss", "specialist_loss", "loss")
    if not numbers:
        return False
    start, specialist, loss = numbers
    return specialist - loss > ABOUT * abs(specialist) and start - loss > 2 * max(start - specialist, 0.0)


def behind_the_model(results: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on tasks that ended clearly better than their specialist in every run; empty where none did.

    Excess is the mean over rows of how far the specialist is ahead, and excess - gap of how far it is behind: without
    a difference between the two models they would be about the same. Those far behind have a warning of their own.
    """
    tasks = [
        f"`{task}`"
        for task in results[0]["tasks"]
        if all(_is_behind(result["tasks"].get(task) or {}) for result in results)
    ]
    if not tasks:
        return ""
    whose = "its specialist" if len(tasks) == 1 else "their specialists"
    asks = "it hardly asks" if len(tasks) == 1 else "they hardly ask"
    return (
        f"{', '.join(tasks)} ended better than {whose}, so by excess {asks} for more. Specialists that learn more "
        "(`specialists.epochs`, `specialists.steps`, and `specialists.patience` if set) would be stricter judges."
    )


def _is_behind(row: Mapping[str, Any]) -> bool:
    numbers = _numbers(row, "specialist_loss", "gap", "excess")
    if not numbers or (row.get("rows") or 0) < FEW or is_far_behind(row):
        return False
    specialist, gap, excess = numbers
    return -gap > CLEAR * abs(specialist) and excess < MIXED * (excess - gap)


def _numbers(row: Mapping[str, Any], *names: str) -> list[float]:
    """These of a task; empty where one is missing."""
    found = [row.get(name) for name in names]
    known = [value for value in found if isinstance(value, float)]
    return known if len(known) == len(found) else []

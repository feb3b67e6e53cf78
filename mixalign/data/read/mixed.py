"""What the rows of a task are, and what is said where they are not all alike."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from mixalign.errors import MixalignError
from mixalign.types import Example

__all__ = ["Sort", "Sorts", "sort_of"]

FORMS = {"text": "plain text", "turns": "conversations", "ids": "token ids"}
MASKS = ("labels", "completion_mask", "assistant_masks")  # say which of a row's token ids are learned


class Sort(NamedTuple):
    """How a row was read.

    Attributes:
        columns: those that make its format, by our names; of token ids also what says which of them are learned.
        form: `text`, `turns` or `ids`.
    """

    columns: tuple[str, ...]
    form: str

    @property
    def title(self) -> str:
        return " + ".join(self.columns)


def sort_of(columns: Sequence[str], example: Example, present: Sequence[str]) -> Sort:
    """Of a row with some columns that was read by a format's."""
    if "input_ids" in example or "prompt_ids" in example:
        return Sort((*columns, *(name for name in MASKS if name in present)), "ids")
    texts = any(isinstance(example.get(name), str) for name in ("prompt", "completion", "chosen"))
    return Sort(tuple(columns), "text" if texts else "turns")


class Sorts:
    """Counts the rows of a task by how they were read."""

    def __init__(self) -> None:
        self.count: Counter[Sort] = Counter()
        self.first: dict[Sort, str] = {}

    def add(self, sort: Sort, place: str) -> None:
        self.count[sort] += 1
        self.first.setdefault(sort, place)

    @property
    def texts(self) -> bool:
        """Whether the rows are questions with their answers, as plain text."""
        return any(sort.form == "text" and sort.columns != ("text",) for sort in self.count)

    @property
    def prompted(self) -> bool:
        """Whether every row that is plain text has a prompt of its own."""
        return all("prompt" in sort.columns for sort in self.count if sort.form == "text")

    def refuse(self, task: str) -> None:
        """Refuses a task of which the template would write a part of the rows, or some pairs lack the prompt.

        Raises:
            MixalignError: naming the first row of each sort.
        """
        self._refuse_forms(task)
        for short in self.count:
            for full in self.count:
                lacking = [name for name in full.columns if name not in short.columns]
                if short.form == full.form == "text" and {*short.columns} < {*full.columns}:
                    raise MixalignError(
                        f"Task `{task}`: {self.count[short]} of {self.count.total()} rows have no `{lacking[0]}` "
                        f"(the first: {self.first[short]}), and the others have one ({self.first[full]}). Without it "
                        f"what both answers begin with would be the prompt. Fill it in, or make a task of each."
                    )

    def _refuse_forms(self, task: str) -> None:
        forms = dict.fromkeys(sort.form for sort in self.count)
        if len(forms) < 2:
            return
        found = []
        for form in forms:
            sorts = [sort for sort in self.count if sort.form == form]
            rows = sum(self.count[sort] for sort in sorts)
            found.append(f"{FORMS[form]} ({rows} rows of {sorts[0].title}, the first: {self.first[sorts[0]]})")
        cure = ""
        if "ids" not in forms and self.prompted:
            cure = f"; or `data.tasks.{task}.apply_chat_template=true`, which makes turns of the texts"
        raise MixalignError(
            f"Task `{task}` mixes {' and '.join(found)}. The chat template writes conversations only, so that these "
            f"rows would be learned in different forms. Make one task of each{cure}."
        )

    @property
    def note(self) -> str:
        """A sentence on the formats; empty where there is but one."""
        if len(self.count) < 2:
            return ""
        parts = "; ".join(f"{sort.title} ({n} rows, the first: {self.first[sort]})" for sort, n in self.count.items())
        return f"its rows are of {len(self.count)} formats, and each is read by its own: {parts}."

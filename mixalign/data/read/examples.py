"""Tables of a task to examples, with errors that name the task and the row."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mixalign.data.read.columns import ColumnUse, Tally, readable
from mixalign.data.read.files import Table
from mixalign.data.read.formats import read_row
from mixalign.errors import MixalignError
from mixalign.types import Example

__all__ = ["about", "column_use", "read_examples"]

log = logging.getLogger(__name__)


@contextmanager
def about(task: str) -> Iterator[None]:
    """Puts the task before the message of an error."""
    try:
        yield
    except MixalignError as error:
        raise MixalignError(f"Task `{task}`: {error}") from error


def read_examples(task: str, tables: Sequence[Table], tally: Tally, chat: bool) -> list[Example]:
    """The examples of a split, whose columns are counted in `tally`.

    Raises:
        MixalignError: for a row that cannot be read, or none at all.
    """
    examples = []
    for table in tables:
        for place, row in readable(table, tally):
            try:
                example, used = read_row(row, tally.columns, chat=chat)
                tally.add(row, used)
                examples.append(example)
            except MixalignError as error:
                raise MixalignError(f"Task `{task}`, {place}: {error}") from error
    if not examples:
        place = ", ".join(table.place.rpartition(",")[0] for table in tables)
        raise MixalignError(f"Task `{task}` is empty: {place or 'the split'} has no rows. Fill it or remove the task.")
    return examples


def column_use(task: str, tally: Tally, examples: Sequence[Example]) -> ColumnUse:
    """What the columns of a task's rows were used for; warns of the others, and refuses pairs without any prompt.

    Raises:
        MixalignError: when all prompts of pairs are empty, or a column that is declared unused is in no row.
    """
    with about(task):
        use = tally.result()
        if all("chosen" in row and not row["prompt"] for row in examples):
            others = f" Is it one of {', '.join(use.unused)}?" if use.unused else ""
            raise MixalignError(
                f"the prompts of all {len(examples)} rows are empty: `chosen` and `rejected` begin with nothing in "
                f"common, or `prompt` is empty. Name the prompt's column, `columns: {{prompt: question}}`.{others}"
            )
    if use.unused:
        log.warning("Task `%s`: %s", task, use.warning)
    return use

"""What a terminal shows: tables that fit its width, and log lines that do not tear a bar."""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import StringIO
from itertools import groupby
from typing import IO, Any, cast

from rich import table
from rich.box import Box
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mixalign.output import StandardError, say

__all__ = [
    "Column",
    "counted",
    "is_watched",
    "print_line",
    "say_result",
    "shared_console",
    "table_text",
    "terminal_width",
    "wrap",
]

RULE = Box("    \n    \n -- \n    \n -- \n    \n    \n    \n", ascii=True)
GAP = 2  # blanks between columns
LEAST = 20  # columns of the terminal that words keep before a table is broken


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: its heading.
        text: whether it holds words, which stand on the left and may be folded; numbers are never cut.
        group: neighbours of one group stay beside each other where a narrow terminal breaks the table.
        spare: whether it is left out, the last such column first, before a table is broken.
    """

    title: str
    text: bool = False
    group: str = ""
    spare: bool = False


def terminal_width() -> int:
    """Columns of the terminal, at least 40: `COLUMNS`, or what standard output says; 80 where that is a file."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def counted(number: int, noun: str) -> str:
    """As in `1 step` and `1,200 steps`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def wrap(text: str, width: int | None = None) -> str:
    """Text broken between words; longer words, such as paths, stay whole for copying."""
    wrapper = textwrap.TextWrapper(width or terminal_width(), break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapper.fill(line) for line in text.split("\n"))


def table_text(
    columns: Sequence[str | Column],
    rows: Sequence[Sequence[str]],
    *,
    totals: Sequence[Sequence[str]] = (),
    title: str = "",
    note: str = "",
    width: int | None = None,
) -> str:
    """A table in ASCII that fits the terminal and never cuts a number.

    A table that is too wide gets headings of several lines, then folded words; then it is broken into several tables
    one under the other, each with the first column.

    Args:
        columns: headings; a plain one is of words in the first place and of numbers after it.
        rows: cells, one a column; `totals` likewise, set apart at the end.
        title: above the table; `note`: below it.
        width: of the terminal; None asks it.
    """
    size = width or terminal_width()
    heads = [c if isinstance(c, Column) else Column(c, text=number == 0) for number, c in enumerate(columns)]
    blocks = _Layout.of(heads, [*rows, *totals], size).blocks(size)
    parts = [_render([heads[n] for n in ns], _pick(rows, ns), _pick(totals, ns), size) for ns in blocks]
    return "\n".join(part for part in (wrap(title, size), "\n\n".join(parts), wrap(note, size)) if part)


def _pick(rows: Sequence[Sequence[str]], numbers: Sequence[int]) -> list[list[str]]:
    return [[row[n] for n in numbers] for row in rows]


@dataclass(frozen=True)
class _Layout:
    """Columns with headings broken as needed, and the least columns of the terminal that each must have."""

    heads: Sequence[Column]
    titles: Sequence[str]
    least: Sequence[int]

    @classmethod
    def of(cls, heads: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> "_Layout":
        cells = [max([1, *(_width(row[n]) for row in rows)]) for n in range(len(heads))]
        titles = [head.title for head in heads]
        sizes = [max(cell, _width(title)) for cell, title in zip(cells, titles, strict=True)]
        if _total(sizes) <= width:
            return cls(heads, titles, sizes)
        words = [max([1, *map(cell_len, title.split())]) for title in titles]
        narrow = [max(cell, word) for cell, word in zip(cells, words, strict=True)]
        titles = [wrap(title, size) for title, size in zip(titles, narrow, strict=True)]
        least = [min(n, LEAST) if head.text else n for head, n in zip(heads, narrow, strict=True)]
        return cls(heads, titles, least)

    def blocks(self, width: int) -> list[list[int]]:
        """Numbers of the columns of each table: all in one where they fit."""
        kept = list(range(len(self.heads)))
        for spare in [None, *(n for n in reversed(kept) if self.heads[n].spare)]:
            kept = [n for n in kept if n != spare]
            if self.needs(kept) <= width:
                return [kept]
        found: list[list[int]] = []
        for unit in self._units(width):
            if found and self.needs([*found[-1], *unit]) <= width:
                found[-1] += unit
            else:
                found.append([0, *unit])
        return found or [[0]]

    def needs(self, numbers: Sequence[int]) -> int:
        """Least width of a table of these columns."""
        return _total([self.least[n] for n in numbers])

    def _units(self, width: int) -> Iterator[list[int]]:
        """Columns that stay together, without the first: a group, or one column."""
        for group, members in groupby(range(1, len(self.heads)), key=lambda n: self.heads[n].group):
            unit = list(members)
            if group and self.needs([0, *unit]) <= width:
                yield unit
            else:
                yield from ([n] for n in unit)


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _total(sizes: Sequence[int]) -> int:
    return sum(sizes) + GAP * (len(sizes) - 1)


def _render(heads: Sequence[Column], rows: Sequence[Sequence[str]], totals: Sequence[Sequence[str]], width: int) -> str:
    layout = _Layout.of(heads, [*rows, *totals], width)
    grid = table.Table(box=RULE, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for head, title, least in zip(heads, layout.titles, layout.least, strict=True):
        shape: dict[str, Any] = {"justify": "left"} if head.text else {"justify": "right", "no_wrap": True}
        grid.add_column(Text(title), min_width=least, overflow="fold", vertical="bottom", **shape)
    for row in rows:
        grid.add_row(*map(Text, row))
    grid.add_section()
    for row in totals:
        if any(row[1:]):
            grid.add_row(*map(Text, row))
    paper = StringIO()
    size = max(width, layout.needs(range(len(heads))))
    Console(file=paper, width=size, color_system=None, legacy_windows=False).print(grid)
    return "\n".join(line.rstrip() for line in paper.getvalue().rstrip().split("\n"))


@cache
def shared_console() -> Console:
    """Standard error: one console for bars and log lines, so that neither tears the other."""
    return Console(file=cast(IO[str], StandardError()), stderr=True, highlight=False, markup=False, emoji=False)


def say_result(text: str) -> None:
    """Prints the result of a command whose files are whole; a warning tells when standard output cannot take it."""
    if why := say(text):
        print_line(f"warning: standard output could not be written ({why}). All files of the command are whole.")


def print_line(text: str) -> None:
    """Writes text to standard error, above the bar if there is one; in a terminal, lines are broken between words."""
    console = shared_console()
    if console.file.isatty():
        text = wrap(text, console.width)
    console.print(text, soft_wrap=True)


def is_watched() -> bool:
    """Whether standard error is a terminal, where a bar can be drawn."""
    return bool(shared_console().file.isatty())

"""What a terminal shows: tables that fit its width, progress, and log lines that do not tear it."""

import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import StringIO
from itertools import groupby
from typing import IO, Any, cast

from rich import table
from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, Group
from rich.errors import LiveError
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from mixalign.output import StandardError, say

__all__ = [
    "Bar",
    "Column",
    "is_watched",
    "print_line",
    "progress",
    "say_result",
    "shared_console",
    "table_text",
    "terminal_width",
    "wrap",
]

RULE = Box("    \n    \n -- \n    \n -- \n    \n    \n    \n", ascii=True)
GAP = 2  # blanks between columns
LEAST = 20  # columns of the terminal that words keep before a table is broken
REFRESH = 0.25  # seconds between two looks of a bar: cheap beside a step, and quick enough for the eye


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


class Bar:
    """How far a piece of work is; costs a look at the clock a call, and draws a few times a second.

    Args:
        title: of the work.
        total: how much there is; None where that is not known yet.
        unit: of what is counted.
        disabled: whether nothing is shown.
        note: what stands below the bar, asked for when it is drawn.
        done: of the work before the bar, as by a run that goes on.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str,
        disabled: bool = False,
        note: Callable[[], str] | None = None,
        done: int = 0,
    ) -> None:
        self.done, self.total, self.unit, self.note = done, total, unit, note
        self._drawn = 0.0
        self._live: Live | None = None
        if disabled or not is_watched():
            return
        name = TextColumn("{task.description}", markup=False, table_column=table.Column(max_width=30, no_wrap=True))
        count = TextColumn("{task.fields[count]}", markup=False)
        self._progress = Progress(name, BarColumn(None), count, TimeRemainingColumn(), expand=True, auto_refresh=False)
        self._task = self._progress.add_task(title, total=total, completed=done, count="")
        self._start()

    def _start(self) -> None:
        live = Live(
            get_renderable=self._look,
            console=shared_console(),
            auto_refresh=False,  # no thread: a process that is forked meanwhile would inherit its locks
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # else what goes to a file would land in the terminal
        )
        try:
            live.start()
        except LiveError:  # within another bar, with a rich that allows one
            return
        shared_console().show_cursor(True)  # a process that is killed cannot show it again
        self._live = live
        self.refresh()

    def advance(self, num: int = 1) -> None:
        """Counts more of the work as done."""
        self.update(self.done + num)

    def update(self, done: int, total: int | None = None) -> None:
        """Says how much is done, and of how much where that has changed."""
        self.done, self.total = done, total or self.total
        if self._live is not None and time.monotonic() - self._drawn >= REFRESH:
            self.refresh()

    def refresh(self) -> None:
        """Draws the bar now."""
        if self._live is not None:
            self._progress.update(self._task, completed=self.done, total=self.total, count=self._count())
            self._live.refresh()
            self._drawn = time.monotonic()

    def close(self) -> None:
        """Takes the bar away; may be called again."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _look(self) -> Group:
        note = self.note() if self.note else ""
        lines = [Text(f"  {note}", no_wrap=True, overflow="ellipsis")] if note else []
        return Group(self._progress, *lines)

    def _count(self) -> str:
        speed = self._progress.tasks[0].speed
        of = f"/{self.total:,}" if self.total is not None else ""
        if not speed:
            return f"{self.done:,}{of} {self.unit}"
        rate = f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
        return f"{self.done:,}{of}  {rate} {self.unit}/s"


@contextmanager
def progress(title: str, total: int | None, unit: str, disabled: bool = False) -> Iterator[Bar]:
    """A bar on standard error while some work lasts; nothing is left of it, nor shown where that is no terminal."""
    bar = Bar(title, total, unit, disabled)
    try:
        yield bar
    finally:
        bar.close()

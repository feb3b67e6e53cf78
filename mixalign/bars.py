"""How far a piece of work is, as a bar in a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import table
from rich.console import Group
from rich.errors import LiveError
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from mixalign import terminal

__all__ = ["Bar", "progress", "small_bar"]

REFRESH = 0.25  # seconds between two looks of a bar: cheap beside a step, and quick enough for the eye
BLOCKS = "".join(map(chr, range(0x258F, 0x2587, -1)))  # an eighth of a cell to a whole one
CELLS = 8  # of a small bar


class Bar:
    """How far a piece of work is; costs a look at the clock a call, and draws a few times a second.

    Args:
        title: of the work.
        total: how much there is; None where that is not known yet.
        unit: of what is counted.
        disabled: whether nothing is shown.
        note: what stands below the bar, in lines, asked for when it is drawn.
        done: of the work before the bar, as by a run that goes on.
        end: what ends its line in the place of its speed and of the time that is left; asked for likewise.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str,
        disabled: bool = False,
        note: Callable[[], str] | None = None,
        done: int = 0,
        end: Callable[[], str] | None = None,
    ) -> None:
        self.done, self.total, self.unit, self.note, self.end = done, total, unit, note, end
        self._drawn = 0.0
        self._live: Live | None = None
        if disabled or not terminal.is_watched():
            return
        name = TextColumn("{task.description}", markup=False, table_column=table.Column(max_width=30, no_wrap=True))
        count = TextColumn("{task.fields[count]}", markup=False)
        last = [TimeRemainingColumn()] if end is None else []
        self._progress = Progress(name, BarColumn(None), count, *last, expand=True, auto_refresh=False)
        self._task = self._progress.add_task(title, total=total, completed=done, count="")
        self._start()

    def _start(self) -> None:
        live = Live(
            get_renderable=self._look,
            console=terminal.shared_console(),
            auto_refresh=False,  # no thread: a process that is forked meanwhile would inherit its locks
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # else what goes to a file would land in the terminal
        )
        try:
            live.start()
        except LiveError:  # within another bar, with a rich that allows one
            return
        terminal.shared_console().show_cursor(True)  # a process that is killed cannot show it again
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
        lines = [Text(f"  {line}", no_wrap=True, overflow="ellipsis") for line in note.splitlines()]
        return Group(self._progress, *lines)

    def _count(self) -> str:
        speed = self._progress.tasks[0].speed
        of = f"/{self.total:,}" if self.total is not None else ""
        if self.end is not None:
            return "  ".join(part for part in (f"{self.unit} {self.done:,}{of}", self.end()) if part)
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


def small_bar(share: float) -> str:
    """A share from 0 to 1 as a few letters long."""
    if not (terminal.shared_console().encoding or "").lower().startswith("utf"):
        return ("#" * round(share * CELLS)).ljust(CELLS)
    eighths = round(min(1.0, max(0.0, share)) * CELLS * len(BLOCKS))
    whole, rest = divmod(eighths, len(BLOCKS))
    return (BLOCKS[-1] * whole + (BLOCKS[rest - 1] if rest else "")).ljust(CELLS)

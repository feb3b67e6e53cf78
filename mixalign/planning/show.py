"""A plan for a terminal: tables that fit it, and rows with what is learned of them bright, or between brackets."""

import re
from collections.abc import Iterator, Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixalign.planning.estimate import estimate_lines
from mixalign.planning.plan import Plan, PlanRow
from mixalign.planning.rows import ShownRow, Side, Span
from mixalign.terminal import Column, counted, table_text, terminal_width, wrap

__all__ = ["has_colour", "plan_text", "rows_text"]

LEARNED, READ, ASIDE = "bold green", "dim", "yellow"
FIRST, LAST = 5, 3  # spans of a long conversation that are shown
SIGNS = r"\n: a line break; <...>: a special token"
BRIGHT = (("bright", LEARNED), ": learned; ", ("dim", READ), ": only read. ")
BRACKETS = "[[ ]]: learned; the rest is only read. "


def has_colour() -> bool:
    """Whether standard output shows colours: a terminal without NO_COLOR, or FORCE_COLOR."""
    console = Console()
    return console.color_system is not None and not console.no_color


def plan_text(plan: Plan, colour: bool = False, width: int | None = None) -> str:
    """The tables of tasks and columns, the rows, the stages and the warnings.

    Args:
        colour: whether colours are understood.
        width: of the terminal; None asks it.
    """
    takes = estimate_lines(plan.estimate) if plan.estimate else []
    lines = [
        *plan.held,
        *plan.stages,
        *takes,
        *(f"chosen: {line}" for line in plan.chosen),
        *(f"warning: {w}" for w in plan.warnings),
    ]
    said = "\n".join(wrap(line, width) for line in lines)
    parts = [_tasks(plan, width), _columns(plan, width), rows_text(plan, colour, width), said]
    return "\n\n".join(part for part in parts if part)


def _tasks(plan: Plan, width: int | None) -> str:
    read = ("rows", "dropped", "cut", "duplicates", "validation", "tokens", "supervised")
    seen = ("share", "of tokens", "of supervised", "epochs", "if all")
    columns = [
        Column("task", text=True),
        *(Column(name, group="read") for name in read),
        *(Column(name, group="seen") for name in seen),
    ]
    title = f"{plan.mixer}: {counted(plan.steps, 'step')} of {plan.batch_size} rows, {plan.objective}"
    note = f"share and epochs: {plan.note}."
    return table_text(columns, [_cells(row) for row in plan.rows], title=title, note=note, width=width)


def _cells(row: PlanRow) -> list[str]:
    c = row.counts
    counts = (c.kept, c.rows - c.kept, c.truncated, row.duplicates, row.validation, c.tokens, c.supervised_tokens)
    shares, epochs = (row.sample, row.token_share, row.supervised_share), (row.epochs, row.epochs_if_all)
    return [c.task, *(f"{n:,}" for n in counts), *(f"{x:.1%}" for x in shares), *(f"{x:.2f}" for x in epochs)]


def _columns(plan: Plan, width: int | None) -> str:
    """What the columns of files are used for; empty where all tasks are generated."""
    rows = [
        [task, *(", ".join(names) or "-" for names in (use.used, use.unused, use.declared))]
        for task, use in plan.columns.items()
        if use.used or use.unused or use.declared
    ]
    heads = [Column(name, text=True) for name in ("task", "columns used", "unused", "declared unused")]
    return table_text(heads, rows, width=width) if rows else ""


def rows_text(plan: Plan, colour: bool = False, width: int | None = None) -> str:
    """The rows that are shown of each task, under one legend; empty where none is."""
    paper = StringIO()
    size = width or terminal_width()
    console = Console(
        file=paper, width=size, force_terminal=colour, color_system="standard" if colour else None, legacy_windows=False
    )
    for row in plan.rows:
        task = row.counts.task
        for shown in plan.shown.get(task, []):
            console.print(Text(("\n" if paper.tell() else "") + _title(task, shown, row.counts.kept)))
            console.print(_grid(shown, colour))
    if not paper.tell():
        return ""
    rows = "\n".join(line.rstrip() for line in paper.getvalue().rstrip().split("\n"))
    with console.capture() as legend:
        console.print(Text.assemble(*BRIGHT, SIGNS) if colour else Text(BRACKETS + SIGNS))
    return f"{legend.get().rstrip()}\n{rows}"


def _title(task: str, row: ShownRow, kept: int) -> str:
    said = f"{task}: row {row.number:,} of {kept:,}; {row.learned_tokens:,} of {row.tokens:,} tokens learned"
    if row.label is not None:
        said += "; desirable" if row.label else "; undesirable"
    return said if row.weight == 1 else f"{said}; weight {row.weight:g}"


def _grid(row: ShownRow, colour: bool) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for side in (row.prompt, *row.answers):
        grid.add_row(Text(f"  {side.name}"), _marked(side, colour))
    return grid


def _marked(side: Side, colour: bool) -> Text:
    """One prompt or answer with its mask."""
    made = Text()
    for part in _parts(side.spans):
        if isinstance(part, str):
            made.append(part, ASIDE if colour else "")
            continue
        before, after = ("[[", "]]") if part.learned and not colour else ("", "")
        style = (LEARNED if part.learned else READ) if colour else ""
        head, tail = visible(part.head), visible(part.tail)
        if part.left_out:
            made.append(before + head, style)
            gap = "" if head.endswith("\n") else " "
            made.append(f"{gap}[... {part.left_out:,} tokens left out ...] ", ASIDE if colour else "")
            made.append(_closed(tail, after), style)
        else:
            made.append(_closed(before + head, after), style)
    made.rstrip()
    return made


def _closed(text: str, sign: str) -> str:
    """A text and what closes it, which stands before the line is broken."""
    return text[:-1] + sign + "\n" if text.endswith("\n") else text + sign


def _parts(spans: Sequence[Span]) -> Iterator[Span | str]:
    """The spans of a side, and what is said of those that are left out in the middle."""
    if len(spans) <= FIRST + LAST:
        yield from spans
        return
    yield from spans[:FIRST]
    middle = spans[FIRST:-LAST]
    tokens, learned = sum(s.tokens for s in middle), sum(s.tokens for s in middle if s.learned)
    yield f"\n[... {tokens:,} tokens left out, {learned:,} of them learned ...]\n"
    yield from spans[-LAST:]


def visible(text: str) -> str:
    """Line breaks as \\n before they break, and what no terminal should get as Python writes it."""
    return re.sub(r"\n+", lambda found: r"\n" * len(found[0]) + "\n", _escaped(text))


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)

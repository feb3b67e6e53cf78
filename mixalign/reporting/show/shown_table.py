"""Tables as the page shows them: cells that say something small beside their number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mixalign.reporting.show.tables import Table

__all__ = ["Cell", "ShownTable"]


class Cell(NamedTuple):
    """A cell's text, and what stands smaller beside it: an error, an interval, an explanation."""

    main: str
    small: str = ""

    @classmethod
    def of(cls, text: str) -> "Cell":
        """`0.1+-0.2` without its error, `-0.1 [-0.2, 0.0]` without what is in brackets, `0.1 (-)` as 0.1."""
        text = text.removesuffix(" (-)")
        mean, mark, error = text.partition("+-")
        if mark:
            return cls(mean, f"\u00b1 {error}")
        for bracket in ("[", "("):
            main, mark, rest = text.partition(f" {bracket}")
            if mark:
                return cls(main, f"{bracket}{rest}")
        return cls(text)


@dataclass(frozen=True)
class ShownTable:
    """A table; its first column names the rows.

    Attributes:
        shaded: The name of the row that stands out; empty when none does.
    """

    titles: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    caption: str = ""
    shaded: str = ""

    @classmethod
    def of(cls, table: Table, shaded: str = "") -> "ShownTable":
        """The table with its cells split."""
        rows = [(row[0], [Cell.of(text) for text in row[1:]]) for row in table.rows]
        return cls(table.titles, rows, table.caption, shaded)

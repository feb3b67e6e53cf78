"""Tables at the widths of usual terminals, and progress in a terminal that is none."""

import re
import sys

import pytest

from mixalign import terminal
from mixalign.terminal import Bar, Column, print_line, progress, table_text, terminal_width, wrap

NUMBERS = [f"{10**n:,}" for n in range(1, 11)]
WIDE = [Column(f"number of {'abcdefghij'[n]}", group="low" if n < 5 else "high") for n in range(10)]
LONG = "a_task_whose_name_is_longer_than_any_terminal_would_like_it_to_be_and_much_more"


def lines(*args, **kwargs) -> list[str]:
    return table_text(*args, **kwargs).split("\n")


class TestTables:
    def test_words_stand_left_and_numbers_right(self):
        assert lines(["task", "rows", "loss"], [["maths", "12", "0.5"], ["b", "1,234", "12.25"]]) == [
            "task    rows   loss",
            "-------------------",
            "maths     12    0.5",
            "b      1,234  12.25",
        ]

    def test_title_totals_and_note(self):
        table = lines(["task", "rows"], [["a", "1"]], totals=[["all", "1"]], title="Rows", note="of one task")
        assert table == ["Rows", "task  rows", "----------", "a        1", "----------", "all      1", "of one task"]

    def test_headings_are_broken_where_they_alone_are_too_wide(self):
        wide = lines(["task", "number of rows"], [["a" * 30, "1"]], width=46)
        assert wide[0].split() == ["task", "number", "of", "rows"]
        narrow = lines(["task", "number of rows"], [["a" * 30, "1"]], width=45)
        assert [line.split() for line in narrow[:3]] == [["number"], ["of"], ["task", "rows"]]

    @pytest.mark.parametrize(
        ("task", "width", "tables"),
        [
            ("maths", 40, 4),
            ("maths", 80, 2),
            ("maths", 120, 1),
            (LONG, 40, 7),
            (LONG, 80, 2),
            (LONG, 120, 2),
            (LONG, 200, 1),
        ],
    )
    def test_it_fits_and_loses_no_number(self, task, width, tables):
        text = table_text(["task", *WIDE], [[task, *NUMBERS]], width=width)
        assert max(map(len, text.split("\n"))) <= width
        assert re.findall(r"\d[\d,]*", text) == NUMBERS
        assert len(text.split("\n\n")) == tables
        for block in text.split("\n\n"):
            assert task[:15] in block

    def test_columns_of_a_group_stay_together(self):
        blocks = table_text(["task", *WIDE], [["a", *NUMBERS]], width=80).split("\n\n")
        assert [block.split("\n")[-1].split()[1:] for block in blocks] == [NUMBERS[:5], NUMBERS[5:]]

    def test_a_number_wider_than_the_terminal_is_not_cut(self):
        assert "1" * 90 in table_text(["task", "rows"], [["a", "1" * 90]], width=40)

    def test_a_total_without_numbers_is_left_out_of_a_block(self):
        text = table_text(["task", *WIDE], [["a", *NUMBERS]], totals=[["all", "7", *[""] * 9]], width=80)
        assert text.count("all") == 1

    def test_names_are_printed_as_they_are(self):
        text = table_text(["task", "rows"], [["[red]a[/red]", "1"], [":smile:", "2"]])
        assert "[red]a[/red]" in text
        assert ":smile:" in text
        assert text.isascii()

    @pytest.mark.parametrize(("columns", "width"), [("120", 120), ("7", 40), ("", 80)])
    def test_the_width_is_that_of_the_terminal(self, monkeypatch, columns, width):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setattr(sys, "__stdout__", None)  # no terminal
        assert terminal_width() == width

    def test_text_is_broken_between_words_only(self):
        assert wrap("one two /a/path/that-is-longer three\nfour", 12).split("\n") == [
            "one two",
            "/a/path/that-is-longer",
            "three",
            "four",
        ]


class TestProgress:
    def test_it_shows_title_count_and_note_and_goes_away(self, screen):
        bar = Bar("specialist maths", 1200, "step", note=lambda: "maths 0.61  code 0.39", done=200)
        bar.update(700)
        assert "specialist maths" in screen.shown()
        assert "200/1,200 step" in screen.shown()
        assert "700/1,200" in screen.shown()
        assert "  maths 0.61  code 0.39" in screen.shown()
        bar.close()
        bar.close()
        assert screen.getvalue().endswith("\x1b[2K")  # the last that is written erases a line

    def test_a_total_that_becomes_known(self, screen):
        with progress("influence 1", None, "row") as bar:
            bar.advance(3)
            assert "3 row" in screen.shown()
            bar.update(4, 16)
            assert "4/16 row" in screen.shown()

    def test_lines_stand_whole_above_it(self, screen):
        with progress("score", 10, "row") as bar:
            bar.advance()
            print_line("a line of [a] log")
            bar.advance()
        assert "\na line of [a] log\n" in screen.shown().replace("\r", "\n")

    def test_a_bar_within_a_bar_does_no_harm(self, screen):
        with progress("outer", 10, "row") as outer, progress("inner", 10, "row") as inner:
            inner.advance()
            outer.advance()
        assert "outer" in screen.shown()

    def test_it_goes_away_when_the_work_fails(self, screen):
        with pytest.raises(KeyError), progress("score", 10, "row"):
            raise KeyError
        with progress("again", 10, "row"):
            assert "again" in screen.shown()

    def test_it_draws_a_few_times_a_second(self, screen, monkeypatch):
        monkeypatch.setattr(terminal, "REFRESH", 3600.0)
        drawn = []
        with progress("score", 1000, "row") as bar:
            bar.note = lambda: drawn.append(1) or ""
            for _ in range(1000):
                bar.advance()
        assert len(drawn) <= 1
        assert bar.done == 1000

    def test_it_is_silent_when_disabled(self, screen):
        with progress("score", 10, "row", disabled=True) as bar:
            bar.advance(10)
        assert screen.getvalue() == ""

    def test_it_is_silent_and_lines_stay_whole_where_there_is_no_terminal(self, capsys):
        with progress("score", 10, "row") as bar:
            bar.advance(10)
            print_line("word " * 100 + "end")
        assert capsys.readouterr() == ("", "word " * 100 + "end\n")

    def test_the_rate_leaves_out_what_was_done_before(self, screen):
        """4000 rows in the four seconds of a clock that ticks once a drawing, give or take those of the start."""
        clock = iter(range(10_000))
        bar = Bar("specialist of " + LONG, 100_000, "row", done=90_000)
        bar._progress.get_time = lambda: float(next(clock))
        for done in range(91_000, 96_000, 1000):
            bar.update(done)
        last = screen.shown().replace("\r", "\n").strip().split("\n")[-1]
        assert re.search(r"95,000/100,000  1,\d\d\d row/s 0:00:0\d$", last)
        assert last.startswith("specialist of a_task_whose_na")
        assert len(last) <= 80
        bar.close()


def test_a_spare_column_goes_before_a_table_is_broken():
    heads = ["task", Column("loss"), Column("margin", spare=True), Column("accuracy")]
    rows = [["sums", "0.123", "0.456", "0.789"]]
    assert "margin" in table_text(heads, rows, width=60)
    narrow = table_text(heads, rows, width=24)
    assert "margin" not in narrow
    assert narrow.splitlines()[-1].split() == ["sums", "0.123", "0.789"]

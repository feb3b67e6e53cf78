"""Tables at the widths of usual terminals."""

import re
import sys

import pytest

from mixalign.terminal import Column, table_text, terminal_width, wrap

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


def test_a_spare_column_goes_before_a_table_is_broken():
    heads = ["task", Column("loss"), Column("margin", spare=True), Column("accuracy")]
    rows = [["sums", "0.123", "0.456", "0.789"]]
    assert "margin" in table_text(heads, rows, width=60)
    narrow = table_text(heads, rows, width=24)
    assert "margin" not in narrow
    assert narrow.splitlines()[-1].split() == ["sums", "0.123", "0.789"]

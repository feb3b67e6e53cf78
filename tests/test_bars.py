"""Progress in a terminal that is none."""

import re

import pytest

from mixalign import bars
from mixalign.bars import Bar, progress
from mixalign.terminal import print_line

LONG = "a_task_whose_name_is_longer_than_any_terminal_would_like_it_to_be_and_much_more"


def test_it_shows_title_count_and_note_and_goes_away(screen):
    bar = Bar("specialist maths", 1200, "step", note=lambda: "maths 0.61  code 0.39", done=200)
    bar.update(700)
    assert "specialist maths" in screen.shown()
    assert "200/1,200 step" in screen.shown()
    assert "700/1,200" in screen.shown()
    assert "  maths 0.61  code 0.39" in screen.shown()
    bar.close()
    bar.close()
    assert screen.getvalue().endswith("\x1b[2K")  # the last that is written erases a line


def test_a_total_that_becomes_known(screen):
    with progress("influence 1", None, "row") as bar:
        bar.advance(3)
        assert "3 row" in screen.shown()
        bar.update(4, 16)
        assert "4/16 row" in screen.shown()


def test_lines_stand_whole_above_it(screen):
    with progress("score", 10, "row") as bar:
        bar.advance()
        print_line("a line of [a] log")
        bar.advance()
    assert "\na line of [a] log\n" in screen.shown().replace("\r", "\n")


def test_a_bar_within_a_bar_does_no_harm(screen):
    with progress("outer", 10, "row") as outer, progress("inner", 10, "row") as inner:
        inner.advance()
        outer.advance()
    assert "outer" in screen.shown()


def test_it_goes_away_when_the_work_fails(screen):
    with pytest.raises(KeyError), progress("score", 10, "row"):
        raise KeyError
    with progress("again", 10, "row"):
        assert "again" in screen.shown()


def test_it_draws_a_few_times_a_second(screen, monkeypatch):
    monkeypatch.setattr(bars, "REFRESH", 3600.0)
    drawn = []
    with progress("score", 1000, "row") as bar:
        bar.note = lambda: drawn.append(1) or ""
        for _ in range(1000):
            bar.advance()
    assert len(drawn) <= 1
    assert bar.done == 1000


def test_it_is_silent_when_disabled(screen):
    with progress("score", 10, "row", disabled=True) as bar:
        bar.advance(10)
    assert screen.getvalue() == ""


def test_it_is_silent_and_lines_stay_whole_where_there_is_no_terminal(capsys):
    with progress("score", 10, "row") as bar:
        bar.advance(10)
        print_line("word " * 100 + "end")
    assert capsys.readouterr() == ("", "word " * 100 + "end\n")


def test_the_rate_leaves_out_what_was_done_before(screen):
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

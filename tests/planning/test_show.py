"""Rows on a terminal: marks, colours, line breaks and what no terminal should get."""

import re

import pytest

from mixalign.data.tokens.tokenise import TokenCounts
from mixalign.planning.plan import Plan, PlanRow
from mixalign.planning.rows import ShownRow, Side, Span
from mixalign.planning.show import FIRST, LAST, has_colour, rows_text, visible

COUNTS = TokenCounts("math", 9, 8, 1, 0, 0, 0, 80, 40)


def span(text: str, learned: bool) -> Span:
    return Span(text, len(text), learned, text)


def plan_of(*answers: Side, prompt: str = "<s>1+1=", **more) -> Plan:
    row = ShownRow(1, Side("prompt", (span(prompt, False),)), answers, **more)
    return Plan("m", "o", 1, 1, "", [PlanRow(COUNTS, 0, 1, 1.0, 1.0, 1.0, 1.0, 1.0)], shown={"math": [row]})


def completion(*spans: Span) -> Side:
    return Side("completion", spans)


def test_what_is_learned_stands_between_brackets():
    sides = completion(span("2</s>", True), span("\n<u>why?\n", False), span("so\n", True), span("\n", False))
    legend, *lines = rows_text(plan_of(sides, label=True, weight=0.5), width=80).split("\n")
    assert "[[ ]]: learned" in legend
    assert lines == [
        "math: row 1 of 8; 8 of 25 tokens learned; desirable; weight 0.5",
        "  prompt      <s>1+1=",
        r"  completion  [[2</s>]]\n",
        r"              <u>why?\n",
        r"              [[so\n]]",
        r"              \n",
    ]


def test_in_colour_it_is_bright_and_the_rest_dim():
    made = rows_text(plan_of(completion(span("2</s>", True), span("more", False))), colour=True, width=80)
    assert "\x1b[2m<s>1+1=\x1b[0m" in made
    assert "\x1b[1;32m2</s>\x1b[0m\x1b[2mmore\x1b[0m" in made
    assert "[[" not in made
    assert made.startswith("\x1b[1;32mbright\x1b[0m: learned; \x1b[2mdim\x1b[0m: only read.")


@pytest.mark.parametrize("colour", [False, True])
def test_every_line_fits(colour):
    long = "a word and " * 60 + "x" * 200
    made = rows_text(plan_of(completion(span(long, True)), prompt=long), colour, width=60)
    lines = re.sub(r"\x1b\[[\d;]*m", "", made).split("\n")
    assert max(map(len, lines)) <= 60
    said = re.sub(r"\s+", "", "".join(lines))
    assert said.count(re.sub(r"\s+", "", long)) == 2  # nothing is lost in breaking lines


def test_what_is_left_out_is_counted():
    cut = Span("abcdef", 6, True, "a", "f", 4)
    assert "[[a [... 4 tokens left out ...] f]]" in rows_text(plan_of(completion(cut)), width=80)
    turns = [span(f"t{n};", n % 2 == 0) for n in range(FIRST + LAST + 4)]
    made = rows_text(plan_of(completion(*turns)), width=80)
    assert "[... 12 tokens left out, 6 of them learned ...]" in made
    assert re.findall(r"t\d+", made) == ["t0", "t1", "t2", "t3", "t4", "t9", "t10", "t11"]


def test_line_breaks_and_control_characters_are_visible():
    assert visible("a\n\nb\tc\x1b[31m\r\u200b") == "a\\n\\n\nb\\tc\\x1b[31m\\r\\u200b"
    assert visible("caf\u00e9 \u732b") == "caf\u00e9 \u732b"


def test_no_rows_no_legend():
    assert rows_text(Plan("m", "o", 1, 1, "", [PlanRow(COUNTS, 0, 1, *[1.0] * 5)])) == ""


@pytest.mark.parametrize(
    ("set_to", "colour"), [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)]
)
def test_colours_are_for_terminals_that_want_them(monkeypatch, capsys, set_to, colour):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    assert has_colour() == colour

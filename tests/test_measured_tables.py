"""The tables of docs/evidence.md and docs/speed.md with measured figures are those of benchmarks/results."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("measured_tables")


def test_the_tables_are_those_of_the_results(tables):
    assert {name for of_page in tables.PAGES.values() for name in of_page} == {
        *("evidence", "compare", "evidence-ideal", "speed", "growth", "influence")
    }
    for page, of_page in tables.PAGES.items():
        text = page.read_text()
        assert tables.document(text, of_page) == text, "run `python benchmarks/measured_tables.py`"


def test_a_figure_that_was_changed_by_hand_is_found(tables):
    page = ROOT / "docs" / "evidence.md"
    text = page.read_text()
    wrong = text.replace("| joint training | .4", "| joint training | .3")
    assert wrong != text
    assert tables.document(wrong, tables.PAGES[page]) == text


def test_a_table_without_a_place_is_named(tables):
    page = ROOT / "docs" / "speed.md"
    with pytest.raises(ValueError, match="no place for the table `speed`"):
        tables.document(page.read_text().replace("<!-- end of speed -->", ""), tables.PAGES[page])

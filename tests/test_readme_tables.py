"""The tables of README.md with measured figures are those of benchmarks/results."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("readme_tables")


def test_the_tables_are_those_of_the_results(tables):
    text = tables.README.read_text()
    assert tables.document(text) == text, "run `python benchmarks/readme_tables.py`"


def test_a_figure_that_was_changed_by_hand_is_found(tables):
    text = tables.README.read_text()
    wrong = text.replace("| joint training | .4", "| joint training | .3")
    assert wrong != text
    assert tables.document(wrong) == text


def test_a_table_without_a_place_is_named(tables):
    with pytest.raises(ValueError, match="no place for the table `speed`"):
        tables.document(tables.README.read_text().replace("<!-- end of speed -->", ""))

"""The comparison in a terminal: it fits 80 columns, and no number is cut."""

import json

import pytest

from mixalign.reporting.judge.comparison import compare
from mixalign.reporting.show.text import comparison_text
from tests.reporting.made_up import COSTS, find


def test_text_fits_and_json_is_json(write_scores, write_run, tmp_path):
    write_run("ama_r", 9, finished=False)
    write_scores(proportional=(0.2, 0.3, 0.4), ama_s=(0.1, 0.2, 0.31), uniform=(0.15,))
    write_run("ideal", 0, mixer_settings={"m": 0.15, "name": "ideal"}, folder="i0")
    write_run("ideal", 0, mixer_settings={"m": 0.3, "name": "ideal", "[bold]": 12}, folder="i1")
    comparison = compare(find(tmp_path))
    text = comparison_text(comparison, 100)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100
    assert "[bold]=12" in text
    assert "Skipped runs/ama_r_9: no eval.json" in text
    assert json.loads(json.dumps(comparison.to_json(), allow_nan=False))["baseline"] == "proportional"


def test_a_single_run_has_no_column_that_says_nothing(write_run, tmp_path):
    write_run("ama_e", 0, {"a": 0.1, "b": 0.2}, objective="sft", costs=COSTS["excess"][0], settings={"steps": 100})
    text = comparison_text(compare(find(tmp_path)), 80)
    assert max(map(len, text.splitlines())) <= 80
    scores, costs = ([line.split() for line in table.splitlines()] for table in text.split("\n\n")[:2])
    assert [len(scores[1]), len(costs[1])] == [1, 1], "each heading is one line"
    assert scores[2] == ["ama_e", "1", "0.200", "0.150", "0.700", "0.450", "0.750"]
    assert costs[0] == ["mixer", "extra", "steps", "for", "clock", "s", "CPU", "s", "memory", "MiB"]
    assert costs[2] == ["ama_e", "+600", "specialists", "80.0", "40.0", "50.0"]
    assert "(-)" not in text
    assert "times" not in text
    assert "accuracy: share of" in text


def test_where_some_have_seeds_the_single_one_is_marked(write_scores):
    text = comparison_text(compare(write_scores(uniform=(0.2, 0.3), ama_s=(0.1,))), 80)
    assert "0.100 (-)" in text
    assert "mean +- standard error over seeds; (-) marks a single seed" in text


LABELS = ({}, {"m": 0.15, "temperature": 12.5}, {"m": 0.3, "temperature": 12.5})


@pytest.fixture
def wide(write_run, tmp_path):
    """Long labels, costs, both usual baselines."""
    kinds = [("proportional", {}), ("uniform", {}), *(("ideal", settings) for settings in LABELS)]
    for number, (mixer, settings) in enumerate(kinds):
        for seed in range(3):
            folder, worst = f"runs/{number}_{seed}", {"a": 0.01, "b": 0.3 - number / 30 + seed / 70}
            costs = COSTS["excess"][0]
            write_run(mixer, seed, worst, folder=folder, mixer_settings=settings, costs=costs, history=False)
    return compare(find(tmp_path))


@pytest.mark.parametrize("columns", [80, 60, 200])
def test_the_text_fits_the_terminal_and_cuts_no_number(columns, wide, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = comparison_text(wide)
    assert max(map(len, text.splitlines())) <= columns
    for row in wide.rows:
        assert {str(row.scores[name]) for name in wide.columns} <= set(text.split())
        for pairs in row.differences.values():
            assert pairs[wide.metric].interval in " ".join(text.split())
    rows = [line for line in text.splitlines() if line.startswith("uniform ")]
    assert len(rows) >= 3  # scores, differences, costs; more where a table is broken


def test_scores_of_one_kind_stay_beside_each_other(wide):
    heads = [line.split() for line in comparison_text(wide, 80).splitlines() if line.startswith("mixer")]
    assert ["mean" in head or "loss" in head for head in heads[:2]] == [False, True]

"""The picture of paired differences: a panel a baseline, a row a method."""

import pytest

from mixalign.errors import MixalignError
from mixalign.reporting.judge.comparison import compare
from mixalign.reporting.show.plots.forest import forest
from tests.reporting.made_up import find


@pytest.fixture
def comparison(write_run, tmp_path):
    def write(seeds=3, **worst):
        for label, value in worst.items():
            for seed in range(seeds):
                noise = 0.01 * (seed + len(label)) % 0.03
                write_run(label, seed, {"a": 0.01, "b": value + noise}, history=False, metrics=False)
        return compare(find(tmp_path))

    return write


def _points(ax):
    """Height -> face colour of the point, of rows that are in range."""
    lines = [line for line in ax.lines if line.get_marker() == "o"]
    return {round(line.get_ydata()[0]): line.get_markerfacecolor() for line in lines}


def test_one_panel_a_baseline_and_a_row_a_method(comparison):
    figure = forest(comparison(uniform=0.3, proportional=0.5, ama_s=0.1, odm=0.302, merge_ties=9.0), "worst_excess")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["minus proportional", "minus uniform"]
    left, right = figure.axes
    order = [tick.get_text() for tick in left.get_yticklabels()]
    assert order == ["ama_s", "uniform", "odm", "proportional", "merge_ties"]
    found = _points(right)
    assert sorted(found) == [0, 2, 3]  # not the baseline itself, and not the merge
    assert found[0] != "white"  # ama_s: its interval leaves zero out
    assert found[2] == "white"  # odm: it holds zero
    assert [text.get_text() for text in right.texts] == ["+8.70"]  # far beyond the others, at the edge
    assert right.get_xlim()[1] < 1


def test_one_seed_has_no_interval_to_draw(comparison):
    with pytest.raises(MixalignError, match="no two mixers share two seeds"):
        forest(comparison(seeds=1, uniform=0.3, ama_s=0.1), "worst_excess")

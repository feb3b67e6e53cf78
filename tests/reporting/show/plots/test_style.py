"""What all figures share."""

import matplotlib
import numpy as np
import pytest

from mixalign.reporting.show.plots.mixture import mixture_paths
from mixalign.reporting.show.plots.style import inner, spread, wrapped
from tests.reporting.made_up import find


def test_spread_keeps_names_apart_and_inside():
    places = spread(np.array([0.01, 0.02, 0.5, 0.99, 1.0]), 0.1)
    assert (np.diff(places) >= 0.1 - 1e-12).all()
    assert places[2] == 0.5
    assert places[-1] <= 1.0


def test_the_callers_style_is_left_alone(write_run, tmp_path):
    write_run("uniform", 0)
    before = dict(matplotlib.rcParams)
    mixture_paths(find(tmp_path))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("values", "edge"), [([1.0, 2.0, 3.0], 3.0), ([1.0, 2.0, 3.0, 100.0], 3.0), ([0.0, 0.0], 1.0), ([], 1.0)]
)
def test_what_lies_far_beyond_does_not_set_the_scale(values, edge):
    assert inner(values) == edge


@pytest.mark.parametrize(
    ("label", "lines"),
    [
        ("ama_s", ["ama_s"]),
        ("ideal m=0.15 steps=40", ["ideal m=0.15", "steps=40"]),
        ("merge_dare_linear x", ["merge_dare_linear", "x"]),
        (f"a note={'x' * 30}", ["a", f"note={'x' * 21}", "x" * 9]),
    ],
)
def test_labels_are_broken_at_blanks_and_where_nothing_else_helps(label, lines):
    assert wrapped(label).split("\n") == lines

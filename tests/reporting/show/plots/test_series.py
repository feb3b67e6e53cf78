"""Curves on common steps."""

import json

import numpy as np

from mixalign.reporting.show.plots.series import shares, smooth
from tests.reporting.made_up import find


def test_shares_are_means_over_seeds_up_to_the_shortest_run(write_run, tmp_path):
    for seed, share in ((0, 0.2), (1, 0.4)):
        path = write_run("uniform", seed, {"a": 0.1, "b": 0.2})
        lines = [{"step": step, "sample": [share, 1 - share]} for step in range(1, 11 + 10 * seed)]
        (path / "mix.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    grid_S, share_KS = shares(find(tmp_path), ["a", "b"])
    assert (grid_S[0], grid_S[-1]) == (1, 10)
    np.testing.assert_allclose(share_KS, np.array([[0.3], [0.7]]) * np.ones((1, len(grid_S))))


def test_smoothing_ignores_gaps():
    values_N = np.array([1.0, np.nan, 3.0, np.nan, np.nan, np.nan, 5.0, 5.0, 5.0, 5.0])
    # window of one to either side: a middle that knows no neighbour stays unknown
    expected_N = [1, 2, 3, 3, np.nan, 5, 5, 5, 5, 5]
    np.testing.assert_allclose(smooth(values_N), expected_N)

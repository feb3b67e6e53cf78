"""Figures have the panels they should, cope with missing files and many tasks, and keep colours per task."""

import io
import json

import numpy as np
import pytest

from mixalign.errors import MixalignError
from mixalign.reporting.show.plots.headline import headline
from mixalign.reporting.show.plots.mixture import mixture_paths
from mixalign.reporting.show.plots.series import shares
from mixalign.reporting.show.plots.tasks import OTHERS, legend_keys, shown_tasks
from tests.reporting.made_up import find


@pytest.fixture
def runs(write_run, tmp_path):
    for mixer, target in (("ama_s", [0.7, 0.2, 0.1]), ("uniform", None), ("group_dro", [0.1, 0.1, 0.8])):
        for seed in (0, 1):
            write_run(mixer, seed, {"a": 0.1, "b": 0.2 + seed / 10, "c": 0.05}, target=target)
    return find(tmp_path)


def _drawn(figure):
    figure.savefig(io.BytesIO(), format="svg")
    return figure


def test_one_panel_a_label(runs):
    figure = _drawn(mixture_paths(runs))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["ama_s (2 seeds)", "group_dro (2 seeds)", "uniform (2 seeds)"]


def test_the_headline_has_its_axes(runs):
    figure = _drawn(headline(runs[0], runs[4]))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["Share of each task under ama_s", "Validation excess, worst task (nats)"]


@pytest.mark.parametrize(("num_tasks", "shown"), [(20, 20), (24, 20)])
def test_many_tasks_stay_apart(num_tasks, shown, write_run, tmp_path):
    excess = {f"task {index:02d}": 0.01 * (index + 1) for index in range(num_tasks)}
    write_run("ama_s", 0, excess, target=np.random.default_rng(0).dirichlet(np.ones(num_tasks)))
    runs = find(tmp_path)
    tasks = shown_tasks(runs)
    assert len(tasks) == shown
    assert (OTHERS in tasks) == (num_tasks > shown)
    keys = legend_keys(tasks, "area")
    assert len({(key.get_facecolor(), key.get_hatch()) for key in keys}) == shown
    _drawn(mixture_paths(runs))
    share_KS = shares(runs, tasks)[1]
    np.testing.assert_allclose(share_KS.sum(0), 1.0)


def test_dollars_and_unknown_numbers_do_not_break_a_figure(write_run, tmp_path):
    path = write_run("ama_s", 0, {"$a_{": 0.1, "b": None})
    write_run("uniform", 0, {"$a_{": 0.1, "b": 0.2}, history=False, metrics=False)
    lines = (path / "mix.jsonl").read_text().splitlines()
    empty = {**json.loads(lines[0]), "excess": None}
    (path / "mix.jsonl").write_text("\n".join([json.dumps(empty), *lines[1:]]) + "\n")
    runs = find(tmp_path)
    _drawn(mixture_paths(runs))


def test_a_run_of_one_step_is_drawn(write_run, tmp_path):
    path = write_run("ama_s", 0, {"a": 0.1, "b": 0.2}, metrics=False)
    (path / "mix.jsonl").write_text('{"step": 1, "sample": [0.5, 0.5], "excess": [0.2, 0.1]}\n')
    (run,) = find(tmp_path)
    _drawn(mixture_paths([run]))
    assert _drawn(headline(run, run)).axes[1].get_xlim() == (0.0, 1.0), "one point has no width of its own"


def test_no_excess_anywhere_is_drawn(write_run, tmp_path):
    path = write_run("ama_s", 0, {"a": 0.0, "b": 0.0}, metrics=False)
    lines = [{"step": step, "sample": [0.5, 0.5], "excess": [0.0, 0.0]} for step in (1, 2)]
    (path / "mix.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = find(tmp_path)
    _drawn(headline(runs[0], runs[0]))


def test_nothing_to_draw_is_said(write_run, tmp_path):
    write_run("uniform", 0, history=False, metrics=False)
    runs = find(tmp_path)
    with pytest.raises(MixalignError, match=r"no run has mix\.jsonl"):
        mixture_paths(runs)

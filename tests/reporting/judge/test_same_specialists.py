"""Excess is compared over one set of specialists only; else runs are ranked by loss, and what differs is named."""

import json

import pytest

from mixalign.reporting.judge.comparison import compare
from mixalign.reporting.judge.same_specialists import different_specialists
from mixalign.reporting.show.page import write_report
from mixalign.reporting.show.text import comparison_text
from tests.reporting.made_up import find


@pytest.fixture
def write(write_run, tmp_path):
    """Writes a run with a worst excess and loss, over specialists of this recipe; gives all runs so far."""

    def go(name, seed, excess, recipe, **settings):
        over = {"excess_over": {"reference": "r", "specialists": {"a": json.dumps(recipe)}}} if recipe else {}
        folder = f"runs/{name}_{len(list((tmp_path / 'runs').glob('*')))}" if (tmp_path / "runs").is_dir() else "runs/0"
        path = write_run(name, seed, {"a": excess, "b": 0.0}, folder=folder, scores=over, settings=settings)
        if recipe:
            (path / "specialists.json").write_text(json.dumps({"a": recipe}))
        return find(tmp_path)

    return go


def recipe(**more):
    return {"start": "r", "fit": {"lr": 1e-3, "steps": 9}, "objective": {"beta": 0.5}} | more


def test_a_run_over_specialists_that_learned_nothing_is_not_ranked_first(write, tmp_path):
    """It has the lowest excess, .0007, for its specialists are the start; by its loss it is the worst."""
    write("uniform", 0, 0.3, recipe(), optimizer={"lr": 1e-3})
    runs = write("uniform", 0, 0.0007, recipe(fit={"lr": 1e-7, "steps": 9}), optimizer={"lr": 1e-7})
    bad = next(run for run in runs if run.config["optimizer"]["lr"] == 1e-7)
    bad.eval["worst"]["loss"]["value"] = 0.69
    comparison = compare(runs)
    assert comparison.metric == "worst_loss"
    assert comparison.columns == ("worst_loss", "worst_accuracy", "mean_loss", "mean_accuracy")
    assert comparison.rows[0].label == "uniform optimizer.lr=0.001"
    (note,) = [note for note in comparison.notes if "different specialists" in note]
    assert "specialists.lr (" in note
    assert "1e-07" in note
    assert "`specialists.of=first`" in note
    assert "worst excess" not in comparison_text(comparison, 100)
    page = write_report(runs, tmp_path / "page.html").read_text()
    assert "Worst excess" not in page
    assert "worst excess minus" not in page
    assert ">gap<" not in page


def test_specialists_of_each_seed_compare_within_it(write):
    for seed in (0, 1, 2):
        for name, excess in (("uniform", 0.3), ("ama_s", 0.1)):
            runs = write(name, seed, excess, recipe(seed=seed))
    assert compare(runs).metric == "worst_excess"
    assert different_specialists(runs) == []


def test_runs_of_older_versions_are_compared_by_their_settings(write):
    write("uniform", 0, 0.3, None, optimizer={"lr": 1e-3}, specialists={"lr": 1e-3, "steps": 9})
    write("ama_s", 0, 0.3, None, optimizer={"lr": 1e-2}, specialists={"lr": 1e-3, "steps": 9})
    assert different_specialists(write("ama_r", 0, 0.3, None, specialists={"lr": 1e-3, "steps": 9})) == []
    runs = write("odm", 0, 0.3, None, specialists={"lr": 1e-3, "steps": 99})
    assert different_specialists(runs) == ["specialists.steps (9, 99)"]
    assert compare(runs).metric == "worst_loss"


@pytest.mark.parametrize("other", [{"start": "s"}, {"objective": {"beta": 0.1}}])
def test_losses_by_other_measures_do_not_compare_either(write, other):
    write("uniform", 0, 0.3, recipe())
    notes = " ".join(compare(write("ama_s", 0, 0.2, recipe(**other))).notes)
    assert "these do not compare either" in notes

"""Results say where they began: the loss of the start model on the same rows."""

import json
from math import log

import pytest

from mixalign.runs.start import with_start
from mixalign.runs.summary import eval_table
from tests.tiny_runs import TASKS

STILL = "optimizer.lr=1e-12"


def results(folder):
    return json.loads((folder / "eval.json").read_text())


def test_of_dpo_it_is_known(finished):
    result = results(finished)
    assert [row["start_loss"] for row in result["tasks"].values()] == pytest.approx([log(2)] * 3, abs=1e-6)
    assert result["mean"]["start_loss"] == pytest.approx(log(2), abs=1e-6)
    shown = eval_table(result)
    assert "start->end" in shown
    for task in TASKS:
        assert f"0.693 -> {result['tasks'][task]['loss']:.3f}" in shown


@pytest.mark.long
@pytest.mark.parametrize(
    "objective",
    [
        ("objective=sft",),
        ("objective=dpo", "objective.loss=simpo"),
        ("objective=dpo", "objective.nll_weight=0.5"),
        ("objective=kto",),
    ],
    ids=lambda overrides: overrides[-1],
)
def test_it_is_the_loss_of_a_run_that_learns_nothing(objective, train):
    """By the same evaluation, whichever way it was found."""
    for row in results(train(*objective, "mixer=uniform", "specialists.train=never", STILL))["tasks"].values():
        assert row["start_loss"] == pytest.approx(row["loss"], abs=2e-5)
        assert row["start_loss"] > 0.1


def test_a_training_is_the_same_with_and_without(train):
    """Bit for bit, and the table has no arrow where there is nothing to show."""
    overrides = ("objective=sft", "mixer=uniform", "specialists.train=never")
    measured, not_measured = train(*overrides), train(*overrides, "eval.start=false", run="without")
    for name in ("model/model.safetensors", "mix.jsonl", "metrics.csv"):
        assert (measured / name).read_bytes() == (not_measured / name).read_bytes(), name
    has, lacks = results(measured), results(not_measured)
    assert "->" not in eval_table(lacks)
    assert with_start(lacks, {task: row["start_loss"] for task, row in has["tasks"].items()}) == has
    assert lacks != has


def test_rounds_have_it_too(of_mixer):
    for row in results(of_mixer("ideal", "objective=sft"))["tasks"].values():
        assert row["start_loss"] > row["loss"]

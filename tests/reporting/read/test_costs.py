"""What the files of a run say of its cost."""

import math

import pytest

from mixalign.reporting.read.costs import Cost, read_cost
from mixalign.reporting.read.runs import load_run
from tests.reporting.made_up import COSTS, before, training


@pytest.mark.parametrize("kind", COSTS)
def test_everything_that_was_needed_counts(kind, write_run):
    files, steps, extra, cpu = COSTS[kind]
    cost = load_run(write_run("ama_s", 0, costs=files, settings={"steps": 100})).cost
    assert cost.steps == steps
    assert cost.extra_steps == extra
    assert cost.time == cost.cpu_seconds == pytest.approx(cpu)
    assert cost.seconds == pytest.approx(2 * cpu)
    assert cost.memory_mib == (90 if kind == "rounds" else 50)


def test_what_is_not_known_stays_unknown(write_run, tmp_path):
    assert load_run(write_run("uniform", 0)).cost is None
    unknown = write_run("ama_s", 0, costs={"cost.json": training(memory=None, specialists=before(600, None))})
    cost = read_cost(unknown, math.nan)
    assert math.isnan(cost.cpu_seconds)
    assert math.isnan(cost.memory_mib)
    assert math.isnan(cost.extra_steps)
    (unknown / "cost.json").write_text("{")
    assert math.isnan(load_run(unknown).cost.time)


def test_on_a_gpu_the_clock_counts():
    assert Cost({"training": 1}, 1, seconds=3.0, cpu_seconds=9.0, memory_mib=1.0, on_gpu=True).time == 3.0

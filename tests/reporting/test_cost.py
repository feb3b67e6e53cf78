"""What the files of a run say of its cost, and what the report makes of it."""

import math

import pytest

from mixalign.reporting.comparison import methods_table
from mixalign.reporting.cost import Cost, read_cost, spent
from mixalign.reporting.runs import find_runs, load_run
from mixalign.reporting.table import compare


def training(steps=100, cpu=10.0, memory=50.0, **leans_on):
    return {
        "steps": steps,
        "seconds": 2 * cpu,
        "cpu_seconds": cpu,
        "memory_mib": memory,
        "memory_of": "process",
        "leans_on": leans_on,
    }


def before(steps, cpu):
    return {"steps": steps, "seconds": None if cpu is None else 2 * cpu, "cpu_seconds": cpu}


MADE = {
    "plain": ({"cost.json": training()}, {"training": 100}, 0, 10.0),
    "excess": (
        {"cost.json": training(specialists=before(600, 30.0))},
        {"training": 100, "specialists": 600},
        600,
        40.0,
    ),
    "rounds": (
        {f"rounds/{d}/cost.json": training() for d in range(3)}
        | {"rounds/0/cost_influence.json": {"seconds": 8.0, "cpu_seconds": 4.0, "memory_mib": 90.0}},
        {"rounds": 300},
        200,
        34.0,
    ),
    "proxy": (
        {"cost.json": training(), "proxy/cost.json": training(baseline=before(100, 9.0))},
        {"training": 100, "proxy": 100, "baseline": 100},
        200,
        29.0,
    ),
    "merge": ({"cost.json": training(0, 0.5, specialists=before(600, 30.0))}, {"specialists": 600}, 500, 30.5),
}


@pytest.mark.parametrize("kind", MADE)
def test_everything_that_was_needed_counts(kind, write_run):
    files, steps, extra, cpu = MADE[kind]
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


def test_multiples_and_differences_are_taken_seed_by_seed():
    def cost(cpu, memory):
        return Cost({"training": 100}, 100, 0.0, cpu, memory, False)

    plain = {0: cost(10.0, 50.0), 1: cost(20.0, 60.0)}
    bills = spent({"uniform": plain, "odm": {0: cost(30.0, 52.0), 1: cost(20.0, 64.0), 2: cost(99.0, 1.0)}}, "uniform")
    assert bills["odm"].times.mean == pytest.approx((3 + 1) / 2)
    assert bills["odm"].more_memory.mean == pytest.approx((2 + 4) / 2)
    assert bills["odm"].time.n == 3
    assert bills["uniform"].times.mean == 1
    assert bills["uniform"].extra_steps.mean == 0


def test_the_tables_show_the_cost(write_run, tmp_path):
    for seed in (0, 1):
        write_run("uniform", seed, costs=MADE["plain"][0], settings={"steps": 100})
        write_run("ama_s", seed, costs=MADE["excess"][0], settings={"steps": 100})
        write_run("odm", seed, settings={"steps": 100})
    comparison = compare(find_runs([tmp_path]))
    rows = {row[0]: row[-3:] for row in methods_table(comparison).rows}
    assert rows["ama_s"] == ["+600 (specialists)", "4.00\u00d7 (40 s)", "50 (+0 \u00b1 0)"]
    assert rows["uniform"] == ["0", "1.00\u00d7 (10 s)", "50 (+0 \u00b1 0)"]
    assert rows["odm"] == ["-", "-", "-"]
    line = next(line.split() for line in comparison.to_text().splitlines() if "specialists" in line)
    assert line == ["ama_s", "+600", "specialists", "40.0", "4.00", "50.0"]


def test_without_costs_there_are_no_columns_for_them(write_run, tmp_path):
    write_run("uniform", 0)
    comparison = compare(find_runs([tmp_path]))
    assert "extra steps" not in methods_table(comparison).titles
    assert "plain training" not in comparison.to_text()

"""What the files of a run say of its cost."""

import math
import re

import pytest

from mixalign.reporting.judge.advice import advise
from mixalign.reporting.judge.comparison import compare
from mixalign.reporting.read.costs import Cost, included, read_cost, times_text
from mixalign.reporting.read.runs import load_run
from mixalign.reporting.show import card_text
from mixalign.reporting.show.shown_run import shown_run
from mixalign.reporting.show.text import comparison_text
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


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("plain", "20 s by the clock, 10 CPU s, of the training alone"),
        ("excess", "80 s by the clock, 40 CPU s, specialists included"),
    ],
)
def test_a_time_says_its_unit_and_what_it_is_of(kind, says, write_run):
    run = load_run(write_run("ama_s", 0, costs=COSTS[kind][0], settings={"steps": 100}))
    assert run.cost.text == says
    (row,) = compare([run]).rows
    assert f"{times_text(row.spent.clock.mean, row.spent.cpu.mean)}, {included(row.spent.parts)}" == says
    spoken = {
        "sentence": " ".join(advise(compare([run]), [run]).sentences),
        "model card": card_text.training(run),
        "facts": shown_run(run).facts["Cost"],
        "terminal": comparison_text(compare([run]), 200),
    }
    for where, text in spoken.items():
        clock, cpu = re.findall(r"\d+", says)
        assert all(word in text for word in ("CPU s", "clock")), f"{where} does not say whose seconds it shows"
        assert {clock, cpu} <= set(re.findall(r"\d+", text)), f"{where} lacks one of the times"
        assert not re.search(r"\d s (in all|with)\b", text), where


def test_on_a_gpu_the_clock_counts():
    assert Cost({}, 1, seconds=3.0, cpu_seconds=9.0, memory_mib=1.0, on_gpu=True).text.startswith(
        "3 s by the clock, 9 CPU s, "
    )
    assert Cost({"training": 1}, 1, seconds=3.0, cpu_seconds=9.0, memory_mib=1.0, on_gpu=True).time == 3.0

"""Costs of labels as multiples of plain training and differences to it."""

import pytest

from mixalign.reporting.judge.costs import spent
from mixalign.reporting.read.costs import Cost


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

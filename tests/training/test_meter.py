"""Seconds add up over processes and peaks are those of the measured work."""

import sys
import time

import numpy as np
import pytest

from mixalign.training.callbacks.cost import Cost
from mixalign.training.meter import Meter


def test_only_what_runs_inside_counts():
    meter = Meter()
    with meter:
        time.sleep(0.02)
    first = meter.seconds
    time.sleep(0.02)
    assert meter.state_dict()["seconds"] == first >= 0.02
    with meter:
        time.sleep(0.02)
    assert first + 0.02 <= meter.seconds


def test_waiting_takes_no_time_of_the_processor():
    with Meter() as waiting:
        time.sleep(0.05)
    with Meter() as working:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
    assert waiting.cpu_seconds < 0.05 <= working.cpu_seconds


def test_a_meter_goes_on_from_what_was_measured():
    meter = Meter()
    meter.load_state_dict({"seconds": 100.0, "cpu_seconds": 50.0, "memory_mib": 1e6, "memory_of": "process"})
    with meter:
        pass
    state = meter.state_dict()
    assert 100 <= state["seconds"] < 101
    assert 50 <= state["cpu_seconds"] < 51
    assert state["memory_mib"] == 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_a_peak_is_that_of_the_work_and_not_of_earlier_work():
    with Meter() as large:
        block = np.ones(64 * 2**17)  # 64 MiB, touched
        del block
    with Meter() as small:
        pass
    assert 60 < large.memory_mib < 200
    assert small.memory_mib < 20


def test_a_training_is_measured_and_its_checkpoints_carry_the_cost(sft_job, tmp_path):
    first, second = Cost(), Cost()
    sft_job.run(tmp_path, steps=2, callbacks=[first])
    state = first.state_dict()
    assert state["seconds"] > 0
    assert state["memory_of"] == "process"
    second.load_state_dict(state)
    sft_job.run(tmp_path, steps=2, callbacks=[second])
    assert second.meter.seconds > state["seconds"]

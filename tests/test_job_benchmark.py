"""`benchmarks/job.py`: its clock gives every second to one stage, and what it puts a clock around is there."""

import importlib
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def job(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("JOB_BEGAN", "100.0")
    return importlib.import_module("job")


def test_every_second_belongs_to_one_stage(job, monkeypatch, tmp_path):
    """Start-up 1 s, training 2 s and 4 s around 3 s of validation, and 5 s behind it of export."""
    seconds = iter([101.0, 103.0, 106.0, 110.0, 110.0, 115.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    stages = job.Stages()

    class Program:
        def train(self):
            self.validate()

        def validate(self):
            pass

    stages.wrap(Program, "train", "training", then="export")
    stages.wrap(Program, "validate", "validation")
    Program().train()
    stages.write(tmp_path / "stages.json")
    found = {stage: stages.seconds[stage] for stage in ("start-up", "training", "validation", "export")}
    assert found == {"start-up": 1.0, "training": 6.0, "validation": 3.0, "export": 5.0}


def test_what_it_clocks_is_there():
    from lightning.pytorch import Trainer
    from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop

    from mixalign import cli
    from mixalign.jobs import job
    from mixalign.runs import train_one
    from mixalign.verbs import train

    for owner, names in (
        (cli, ["import_module"]),
        (job, ["read_task"]),
        (train, ["prepare", "reference_policy", "_train"]),
        (train_one, ["save_model"]),
        (Trainer, ["save_checkpoint"]),
        (_EvaluationLoop, ["run"]),
    ):
        assert all(callable(getattr(owner, name)) for name in names)

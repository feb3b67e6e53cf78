"""A job runs on as many processes as `trainer` asks for, on the same settings and arguments, and leaves no trace."""

import json
import os

import numpy as np
import pytest
import torch

from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError
from mixalign.together import start
from tests.together.processes import forks, run_module

JOBS = """
import json, os, tempfile
from pathlib import Path
from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError
from mixalign.together.agree import is_first, rank, wait, world
from mixalign.together.start import on_all_ranks
from mixalign.together.trainer import trainer_options

NAMES = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@on_all_ranks
def job(settings, name, folder=None):
    options = trainer_options(settings, "32-true")
    found = {
        "world": world(), "name": name, "folder": str(folder), "progress": settings.progress,
        "devices": options["devices"], "precision": options["precision"], "learning rate": settings.optimizer.lr,
        "tasks": repr([*settings.plain["data"]["tasks"]]),
    }
    Path(f"{name}{rank()}.json").write_text(json.dumps(found))
    wait()
    if name == "refused" and not is_first():
        raise MixalignError("`seed` is odd.")
    wait()
    return name, world()


def main():
    settings = compose_settings(
        ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "optimizer.lr=0.125",
         "data.tasks.1={generator: helpful}"]
    )
    before = {name: os.environ.get(name) for name in NAMES}
    print(job(settings, "first"))
    print(job(settings, "second", folder=Path("x")))
    try:
        job(settings, "refused")
    except MixalignError as error:
        print("error:", error)
    print({name: os.environ.get(name) for name in NAMES} == before, os.listdir(tempfile.gettempdir()), flush=True)
"""


@pytest.mark.long
@forks
def test_jobs_one_after_the_other_each_have_two_processes(tmp_path):
    """As in a sweep: the environment is put back, nobody is left, and an error of the second process is the job's."""
    assert run_module(JOBS, tmp_path) == 0, (tmp_path / "err").read_text()
    first, second, refused, left = (tmp_path / "out").read_text().splitlines()
    assert (first, second, refused) == ("('first', 2)", "('second', 2)", "error: `seed` is odd.")
    assert left.startswith("True ")
    assert "mixalign-" not in left
    for name, folder in (("first", "None"), ("second", "x")):
        one, two = (json.loads((tmp_path / f"{name}{rank}.json").read_text()) for rank in (0, 1))
        assert (one["progress"], two["progress"]) == (True, False)
        assert one | {"progress": False} == two
        assert (one["world"], one["name"], one["folder"], one["devices"]) == (2, name, folder, 2)
        assert one["precision"] == "32-true"
        assert one["learning rate"] == 0.125
        assert "1" in one["tasks"]


@pytest.fixture(scope="module")
def settings():
    return compose_settings([])


def test_a_single_process_gets_what_the_job_gives(settings):
    seen = []

    @start.on_all_ranks
    def job(settings, number, *, word):
        """Its docstring."""
        seen.append((settings, number, word))
        os.environ["RANK"] = "7"
        return "result"

    assert job(settings, 3, word="x") == "result"
    assert job.__doc__ == "Its docstring."
    assert seen[0][0] is settings
    assert seen[0][1:] == (3, "x")
    assert "RANK" not in os.environ


@pytest.mark.parametrize("value", ["0", "-1", "long"])
def test_a_timeout_is_a_number_of_minutes(value):
    with pytest.raises(MixalignError, match=r"`trainer.timeout` is .* but must be a number above 0.* Minutes"):
        compose_settings(["trainer=ddp", "trainer.devices=2", f"trainer.timeout={value}"])


def test_several_machines_need_a_launcher():
    settings = compose_settings(["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2"])
    with pytest.raises(MixalignError, match=r"`trainer.num_nodes` is 2: .*torchrun --nnodes"):
        start.on_all_ranks(print)(settings)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
SLURM = {"SLURM_NTASKS": "6", "SLURM_NNODES": "3", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(("environment", "devices", "machines"), [(TORCHRUN, 4, 2), (SLURM, 2, 3)])
def test_the_numbers_of_a_launcher_are_taken(monkeypatch, settings, environment, devices, machines):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    taken = start._take_from_launcher(settings)
    assert (taken.trainer.devices, taken.trainer.num_nodes) == (devices, machines)
    assert {**taken.plain["trainer"]} == {**settings.plain["trainer"], "devices": devices, "num_nodes": machines}
    assert (settings.trainer.devices, settings.plain["trainer"]["devices"]) == (1, 1)
    by_hand = compose_settings(["trainer.devices=2"])
    assert start._take_from_launcher(by_hand) is by_hand


def test_no_launcher_changes_nothing(settings):
    assert start._take_from_launcher(settings) is settings


@pytest.mark.parametrize("take", [lambda: torch.empty(10**15), lambda: np.zeros(10**15)], ids=["torch", "numpy"])
def test_memory_that_runs_out_in_a_stage_is_named(settings, take):
    """More than there is on any machine."""
    with pytest.raises(MixalignError, match=r"Memory ran out .*llocate .*Lower `eval_batch_size`"):
        start.on_all_ranks(lambda settings: take())(settings)


def test_other_errors_stay_as_they_are(settings):
    def fail(settings):
        raise RuntimeError("no power")

    with pytest.raises(RuntimeError, match="no power"):
        start.on_all_ranks(fail)(settings)

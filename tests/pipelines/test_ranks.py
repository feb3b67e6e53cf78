"""A process that hangs and one that dies hold nobody for long."""

import os
import sys
import tempfile
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from mixalign.errors import MixalignError
from mixalign.pipelines import ranks

ROOT = Path(__file__).resolve().parents[2]

JOB = """
import os, signal, time
from omegaconf import OmegaConf
from mixalign.pipelines import ranks

ranks.GRACE = 0.5


@ranks.on_all_ranks
def job(cfg):
    if not ranks.is_first():
        open("pid", "w").write(str(os.getpid()))
    ranks.wait()
    if not ranks.is_first():
        os.kill(os.getpid(), signal.SIGSTOP)
    begin = time.monotonic()
    try:
        ranks.wait()
    except RuntimeError as error:
        print(f"after {time.monotonic() - begin:.0f} s: {error}", flush=True)
    os.kill(int(open("pid").read()), signal.SIGKILL)
    time.sleep(300)  # as if it waited for a GPU


CFG = {"trainer": {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "timeout": 0.05}}
"""


def run_job(folder: Path) -> None:
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))  # not those of pytest
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    tempfile.tempdir = str(folder)
    sys.path.insert(0, str(folder))
    lost = import_module("lost")
    lost.job(OmegaConf.create(lost.CFG))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_nobody_waits_for_a_process_that_hangs_or_is_dead(tmp_path):
    """The second process stops, so the first one's barrier ends by `trainer.timeout`; then it dies unnoticed."""
    (tmp_path / "lost.py").write_text(JOB)
    first = get_context("fork").Process(target=run_job, args=(tmp_path,))  # which has loaded the libraries
    first.start()
    try:
        first.join(120)
        assert first.exitcode == 1
    finally:
        first.kill()
    said = (tmp_path / "out").read_text()
    assert "after 3 s: " in said
    assert "Timed out waiting 3000ms" in said
    said = (tmp_path / "err").read_text()
    assert said.count("error: Process 1 was ended by SIGKILL: by somebody, or by the system") == 1
    assert "goes on from the last checkpoint" in said
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()
    assert not list(tmp_path.glob("mixalign-*"))


def test_a_process_that_waited_too_long_says_which_setting_it_is(tmp_path):
    with pytest.raises(MixalignError, match=r"longer than `trainer.timeout` for another one \(Timed out .*Raise it"):
        ranks._blame(RuntimeError("Timed out waiting 3000ms for recv\nsecond line"), [], tmp_path)


@pytest.mark.parametrize("value", [0, -1, "long"])
def test_a_timeout_is_a_number_of_minutes(value):
    cfg = OmegaConf.create({"trainer": {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "timeout": value}})
    with pytest.raises(MixalignError, match=r"`trainer.timeout` is .* but must be a number of minutes above 0"):
        ranks.on_all_ranks(print)(cfg)


@pytest.mark.parametrize("take", [lambda: torch.empty(10**15), lambda: np.zeros(10**15)], ids=["torch", "numpy"])
def test_memory_that_runs_out_in_a_stage_is_named(take):
    """More than there is on any machine."""
    cfg = OmegaConf.create({"trainer": {}})
    with pytest.raises(MixalignError, match=r"Memory ran out .*llocate .*Lower `eval_batch_size`"):
        ranks.on_all_ranks(lambda cfg: take())(cfg)


def test_other_errors_stay_as_they_are():
    def fail(cfg):
        raise RuntimeError("no power")

    with pytest.raises(RuntimeError, match="no power"):
        ranks.on_all_ranks(fail)(OmegaConf.create({"trainer": {}}))

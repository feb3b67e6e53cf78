"""Two processes are one process with the same global batch."""

import os
import runpy
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_ranks.py")
ROOT = SCRIPT.parents[2]
SECONDS = 240

pytestmark = pytest.mark.long


def launch(folder: Path, part: str = "main") -> None:
    """Runs the script on two processes in a group of their own, which ends with this call whatever happens."""
    env = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), "2", str(folder), part]
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        pytest.fail(f"two processes were not done after {SECONDS} s")
    finally:
        with suppress(ProcessLookupError):  # the group is gone when all is well
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
    assert process.returncode == 0, said


def load(path: Path):
    return torch.load(path, weights_only=False)


@pytest.fixture(scope="module")
def seen(tmp_path_factory, small_job):
    """What one process saw, what each of two saw, and where their checkpoints are."""
    folder = tmp_path_factory.mktemp("ranks")
    launch(folder)
    script = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
    script.main(1, folder, small_job)
    found = {name: load(folder / f"{name}.pt") for name in ("rank0of1", "rank0of2", "rank1of2")}
    return SimpleNamespace(
        folder=folder, script=script, one=found["rank0of1"], two=[found["rank0of2"], found["rank1of2"]]
    )


CASES = ["ama_r", "ama_r accumulated", "ama_r clipped by task", "ama_s", "group_dro accumulated"]
CASES += ["kto", "kto accumulated", "kto clipped by task, accumulated", "ama_r clipped by task, accumulated"]
CASES += ["ama_s with weights of rows"]


@pytest.mark.parametrize("case", CASES)
def test_both_processes_hold_the_same_model_and_mixture(seen, case):
    first, second = (half[case] for half in seen.two)
    assert first["alphas"].equal(second["alphas"])
    assert all(weight.equal(second["weights"][name]) for name, weight in first["weights"].items())
    assert first["summary"] == second["summary"]
    assert first["best"] == second["best"]
    for quantity, value_K in first["evaluation"].items():
        assert value_K.equal(second["evaluation"][quantity])


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(seen, case):
    """The mixture agrees as far as float32 sums of the same losses do; gradients of float64 weights nearly exactly."""
    one, (first, second) = seen.one[case], (half[case] for half in seen.two)
    assert not set(first["losses"]) & set(second["losses"])
    assert first["losses"] | second["losses"] == pytest.approx(one["losses"], rel=1e-6)
    torch.testing.assert_close(first["alphas"], one["alphas"], rtol=0, atol=1e-7)
    for ours, wanted in zip(first["grads"], one["grads"], strict=True):
        largest = max(float(g.abs().max()) for g in wanted.values())
        for name, grad in wanted.items():
            assert float((ours[name] - grad).abs().max()) <= 1e-7 * largest, name
    for name, weight in one["weights"].items():
        torch.testing.assert_close(first["weights"][name], weight, rtol=0, atol=1e-7)
    assert first["summary"]["rows_seen"] == one["summary"]["rows_seen"]


@pytest.mark.parametrize("case", CASES)
def test_validation_reads_every_row_once(seen, case):
    one, two = seen.one[case], seen.two[0][case]
    assert two["evaluation"]["count"].tolist() == [6, 6, 6] if "kto" in case else [3, 3, 3]
    for quantity, value_K in one["evaluation"].items():
        torch.testing.assert_close(two["evaluation"][quantity], value_K, rtol=1e-6, atol=1e-6)
    assert two["best"] == one["best"] != ""


@pytest.mark.parametrize("case", ["ama_r accumulated", "ama_s"])
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_training_of_two_processes_goes_on_with_one(seen, small_job, case):
    script, (mixer, micro) = seen.script, seen.script.CASES[case]
    place = seen.folder / "2 ranks" / case
    micro = micro and 2 * micro
    run = script.prepare(small_job).run(
        place, mixer, micro=micro, **script.SETTINGS, callbacks=[script.keeper(place)], resume=place / "at3.ckpt"
    )
    assert run.trainer.global_step == 6
    one = seen.one[case]
    torch.testing.assert_close(torch.stack(run.seen.alphas), one["alphas"][3:], rtol=0, atol=1e-7)
    for name, weight in run.weights().items():
        torch.testing.assert_close(weight, one["weights"][name], rtol=0, atol=1e-6)

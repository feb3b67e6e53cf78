"""Two processes measure what one does."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).with_name("two_ranks.py")
SECONDS = 120

pytestmark = pytest.mark.long


def launch(folder: Path) -> None:
    """Runs the script as two processes, which end with this call whatever happens."""
    env = os.environ | {"PYTHONPATH": str(SCRIPT.parents[2]), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), "2", str(folder)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            said, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, said
    except subprocess.TimeoutExpired:
        pytest.fail(f"two processes were not done after {SECONDS} s")
    finally:
        for process in processes:
            process.kill()
            process.wait(60)


@pytest.fixture(scope="module")
def seen(tmp_path_factory, table, llama):
    folder = tmp_path_factory.mktemp("ranks")
    launch(folder)
    script = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
    script.main(0, 1, folder, table, llama)
    return [torch.load(folder / f"rank{name}.pt", weights_only=False) for name in ("0of1", "0of2", "1of2")]


@pytest.mark.parametrize("case", ["sft ekfac", "sft kfac", "dpo ekfac", "dpo identity"])
def test_two_processes_measure_as_one(seen, case):
    one, *two = (found[case] for found in seen)
    for half in two:
        assert half["rows"].tolist() == one["rows"].tolist() == [5, 5]
        for quantity in ("product", "dot", "resampled"):
            np.testing.assert_allclose(half[quantity], one[quantity], rtol=1e-5, atol=1e-8)
    assert two[0]["product"].tolist() == two[1]["product"].tolist()
    assert sum(half["work"] for half in two) == one["work"]
    assert all(half["work"] > 0 for half in two)

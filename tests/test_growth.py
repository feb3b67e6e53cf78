"""`benchmarks/growth.py`: exponents of known curves, equal rows in both formats, and all stages of small sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mixalign.data.read.sources import TaskSpec, load_rows

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def growth(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import growth

    return growth


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_what_comes_on_top_of_the_first_size(growth, power):
    rows = np.array([1, 1_000, 2_000, 4_000])
    assert growth._exponent(rows, 10 + 1e-3 * (rows - 1) ** power, 0.01) == pytest.approx(power, abs=0.01)


def test_what_hardly_grows_is_flat(growth):
    assert growth._exponent([1, 10, 100, 1000], [5.0, 5.05, 5.02, 5.1], 0.2) is None
    assert growth._exponent([1, 10, 100, 1000], [5.0, 5.05, 4.9, 6.0], 0.2) is None


def test_both_formats_have_the_same_rows(growth, tmp_path):
    for ending in growth.FORMATS:
        growth._write(tmp_path, 2, 30, ending)
    for task in ("t0000", "t0001"):
        one, other = (load_rows(task, TaskSpec(path=str(tmp_path / f"{task}.{end}"))) for end in growth.FORMATS)
        assert one == other
        assert len({row["prompt"] for row in one}) == 30


def test_the_sizes_of_the_whole_are_those_that_are_promised(growth):
    tasks, rows = growth.WHOLE
    assert tasks.sizes[-1] == (1_000, 10_000)
    assert rows.sizes[-1] == (10, 10_000_000)


@pytest.mark.long
def test_all_stages_are_measured(tmp_path):
    text = "import sys, growth; growth.SHORT = growth._sweeps((2, 3), 40, (30, 60)); growth.main()"
    command = [sys.executable, "-c", text, "--short", "--formats", "parquet", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        command,
        cwd=BENCHMARKS,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert [run["stage"] for run in runs[:5]] == ["tokenise", "plan", "first step", "resume", "validation"]
    assert all(run["cpu_s"] > 0 and run["peak_mib"] > 100 for run in runs)
    # a tenth of the rows validates
    assert [run["rows_validated"] for run in runs if run["stage"] == "validation"] == [4, 8, 12, 160, 30, 60]

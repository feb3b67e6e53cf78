"""Every example runs as it stands, and is short."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.long
def test_ama_in_a_script_of_ones_own(tmp_path):
    """The task that is harder to learn gets most of the draws, and both end near their specialists."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, ROOT / "examples/own_script.py"],
        capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"(\w+) +excess [\d.]+ nats on validation rows, (\d+)% of the draws", done.stdout))
    assert int(found["larger"]) > 60 > 40 > int(found["polite"])


def test_examples_are_short():
    assert EXAMPLES
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) < 60, path

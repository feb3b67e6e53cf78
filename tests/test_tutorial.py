"""docs/tutorial.md: its rows are made and its commands run, one after the other, with fewer steps."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
FEWER = {"steps=120": "steps=4", "specialists.steps=60": "specialists.steps=2"}


def commands() -> list[list[str]]:
    """Those of the page but for the ones of the real model."""
    blocks = re.findall(r"^```\n(mixalign .*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    found = [shlex.split(block.replace("\\\n", " "))[1:] for block in blocks]
    return [words for words in found if not {"model=smollm2", "runs/real", "run_dir=runs/real"} & {*words}]


@pytest.mark.long
def test_from_rows_to_an_exported_model(tmp_path):
    rows, load = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-c", rows)
    (first,) = re.findall(r"^```json\n(.*?)\n```", PAGE, re.MULTILINE | re.DOTALL)
    assert (tmp_path / "tasks" / "dates" / "train.jsonl").read_text().splitlines()[0] == first
    (tmp_path / "prompts.txt").write_text("Write 3 May 2021 as a date for a computer.\n")
    said = {words[0]: run("-m", "mixalign", *(FEWER.get(word, word) for word in words)) for words in commands()}
    assert [*said] == ["plan", "train", "report", "generate", "export"]
    counts = re.findall(r"^(?:dates|totals) +240 .*", PAGE, re.MULTILINE)
    assert len(counts) == 2
    assert all(line in said["plan"] for line in counts)
    assert (tmp_path / "runs" / "first" / "report.html").is_file()
    run("-c", load)

"""`benchmarks/gpu.sh`: what it compares is the same work, its parts are there, and a cut run keeps what it has."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mixalign.data.batches.pack import pack
from mixalign.models.forward import score_completions

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
SCRIPT = (BENCHMARKS / "gpu.sh").read_text()


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of benchmarks/."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__


def test_its_rows_have_the_lengths_of_hh(benchmark):
    rows = benchmark("hh_lengths").make_hh_rows(4000, 1000)
    prompt, chosen, rejected = (np.mean([len(row[key]) for row in rows]) for key in ("prompt", "chosen", "rejected"))
    assert prompt == pytest.approx(130, rel=0.05)
    assert (chosen + rejected) / 2 == pytest.approx(47, rel=0.05)
    assert prompt / (2 * prompt + chosen + rejected) == pytest.approx(0.36, abs=0.01)


def test_pairs_that_are_packed_apart_have_the_log_probabilities_of_those_that_share_a_prompt(benchmark):
    rows = benchmark("hh_lengths").make_hh_rows(6, 200)
    tables = benchmark("with_mixalign").make_tasks(rows, 2, ("chosen", "rejected"), 2)
    for table in tables:
        table.attach("reference_logp", np.arange(2.0 * len(table)).reshape(-1, 2))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=200, **sizes)).eval()
    task_B, row_B = np.array([0, 1, 1, 0]), np.array([2, 0, 1, 1])
    together, apart = (make(tables, task_B, row_B) for make in (pack, benchmark("gpu_step")._apart))
    assert apart["input_ids"].numel() > together["input_ids"].numel()
    for key in ("num_tokens_BS", "task_B", "row_id_B", "reference_logp_BS"):
        assert apart[key].equal(together[key]), key
    with torch.no_grad():
        found, wanted = (score_completions(model, batch).logp_BS for batch in (apart, together))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


def test_each_part_calls_what_is_there():
    called = {*re.findall(r"(?:benchmarks|tests)/\w+\.py", SCRIPT)}
    assert called >= {"benchmarks/gpu_step.py", "benchmarks/influence.py", "benchmarks/scoring.py"}
    assert all((ROOT / path).is_file() for path in called)
    tiny, full = (re.findall(r"^    (?:part|step) (\w+)", half, re.M) for half in SCRIPT.split("\nelse\n"))
    assert tiny == full, "a rehearsal has the parts of the whole"


def test_its_limits_are_under_nine_minutes():
    full = SCRIPT.split("\nelse\n")[1]
    assert re.search(r"budget=\$\{BUDGET:-(\d+)\}", SCRIPT)[1] == "530"
    limits = [re.match(r"    (?:part|step) \w+ (\d+) ", line) for line in full.splitlines() if line[:4] == "    "]
    assert all(limits), "each part has a limit of its own"


@pytest.mark.long
def test_a_run_whose_time_is_up_names_what_it_left_out(tmp_path):
    environment = os.environ | {"SIZE": "tiny", "BUDGET": "0", "PYTHON": sys.executable}
    done = subprocess.run(
        [BENCHMARKS / "gpu.sh", tmp_path], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    parts = (tmp_path / "parts.txt").read_text().splitlines()
    assert len(parts) == 9
    assert all(line.endswith("left out, the time is up") for line in parts)


@pytest.mark.long
def test_a_step_of_ours_runs_here_by_its_own_command(tmp_path):
    command = [sys.executable, "gpu_step.py", "--size", "tiny", "--short", "--batch", "8", "--lora", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--variants", "ours,ours_apart,profile", "--json", str(tmp_path / "figures.json")],
        cwd=BENCHMARKS,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["name"] == "dpo_tiny_lora"
    assert figures["ratios"]["vs_ours_apart"] > 0
    assert "waits" in figures["profile"]

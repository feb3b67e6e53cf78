"""The mixture at scale: draws from 100 million rows in 1,000 tasks, AMA-S over 1,000 weights, and score look-ups.

A draw costs the same whatever the tables hold, and the sampler holds a few numbers a task. `lookup_ms`: the
scores of 512 random rows of a memory-mapped table of 10 million, as a training batch reads them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import parser, print_table, run_benchmark, spread, write_json

TASKS, ROWS, BATCH = 1000, 100_000_000, 512
TABLE = 10_000_000  # rows of the memory-mapped table: two columns of scores and one of hashes, 240 MB on disk


def main() -> None:
    options = parser(__doc__, steps=200).parse_args()
    if options.short and not options.worker:
        options.repeats = 1
    found = run_benchmark(__file__, options, {"ours": {}}, _work)
    if found is None:
        return
    keys = ("draw_stratified_ms", "draw_multinomial_ms", "sampler_mib", "resident_mib", "update_ms", "lookup_ms")
    figures = {key: spread(found["ours"], key) for key in keys}
    print_table(["figure", "median", "least", "most"], [[key, *values] for key, values in figures.items()])
    ratios = {key: values[0] for key, values in figures.items()}
    write_json(options.json, "sampler_scale", "cpu", ratios, tasks=TASKS, rows=ROWS, batch=BATCH, runs=found["ours"])


def _work(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from mixalign.data.batches.sampler import MixtureSampler

    torch.set_num_threads(options.threads)
    times = 50 if options.short else options.steps
    rng = np.random.default_rng(0)
    share_K = rng.pareto(1.5, TASKS) + 0.01
    rows_K = np.maximum(1, (share_K / share_K.sum() * ROWS).astype(np.int64))
    before = _resident_mib()
    samplers = {how: MixtureSampler(rows_K.tolist(), BATCH, how) for how in ("stratified", "multinomial")}
    for sampler in samplers.values():
        sampler.set_mixture(rows_K / rows_K.sum())
    found = {f"draw_{how}_ms": _milliseconds(sampler.draw, times) for how, sampler in samplers.items()}
    found |= {"sampler_mib": _resident_mib() - before, "resident_mib": _resident_mib()}
    found["update_ms"] = _update(times)
    found["lookup_ms"] = _lookup(rng, 50 if options.short else 200)
    return found


def _update(times: int) -> float:
    import torch

    from mixalign.mixers.ama_s import AMAS
    from mixalign.mixers.base import MixSignal

    mixer = AMAS()
    state = mixer.init(torch.ones(TASKS, dtype=torch.float64))[1]
    noise_K = torch.rand(TASKS, dtype=torch.float64)
    signal = MixSignal(0, torch.ones(TASKS), noise_K, noise_K, noise_K)
    return _milliseconds(lambda: mixer.update(signal, state), times)


def _lookup(rng: np.random.Generator, times: int) -> float:
    """Milliseconds of the scores of one batch: new random rows each time of a memory-mapped table in the page cache."""
    from mixalign.data.batches.collate import score_columns
    from mixalign.data.dataset import TaskDataset
    from mixalign.frozen.table import ScoreTable

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.safetensors"
        row_id_N = rng.integers(0, 2**63 - 1, TABLE)
        ScoreTable(row_id_N, np.zeros((TABLE, 2)), {}).save(path)
        nothing = np.zeros(0, np.int32), np.zeros(0, bool), np.zeros((TABLE, 3), np.int32)
        dataset = TaskDataset("scored", *nothing, row_id_N, start_N=np.zeros(TABLE + 1, np.int64))
        dataset.attach("reference_logp", ScoreTable.load(path, {}).align(dataset))
        task_B = np.zeros(BATCH, np.int64)
        batches = iter([rng.integers(0, TABLE, BATCH) for _ in range(times + 1)])
        return _milliseconds(lambda: score_columns([dataset], task_B, next(batches)), times)


def _milliseconds(call: Callable[[], Any], times: int) -> float:
    call()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return 1e3 * median(seconds)


def _resident_mib() -> float:
    """Memory of this process at the moment (Linux; elsewhere nan)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    line = next(x for x in status.read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()

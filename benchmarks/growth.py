"""Growth: what tokenising, planning, the first step, resuming and one validation cost as tasks, and as rows, increase.

Two sweeps of generated rows of short text, as JSON lines and as parquet: more tasks of equally many rows, and more rows
in ten tasks. Each stage is the command of a user, in a process of its own:

    tokenise    `mixalign plan` with an empty cache
    plan        `mixalign plan` with token tables in the cache
    first step  `mixalign train` up to the end of its first optimizer step; it is then stopped by SIGTERM
    resume      the same command again, up to the next step, and stopped again
    validation  the same once more: of it, the validation alone, which reads `eval_rows` rows a task

Processes are forks of one that has imported the program (Linux), so that imports are in no figure of time; they are in
the memory. A first, small size gives what a stage costs whatever it reads. That is subtracted before an exponent is
fitted: the slope of log(cost - cost of that size) over log(rows), by least squares over the upper half of sizes. `flat`
is a stage that costs hardly more at the largest size. Time is CPU seconds of one thread; memory the peak of what is
anonymous, of the whole process: pages of mapped files, which the system takes back when it wants, are in `peak_mib` of
the JSON.
"""

import argparse
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from common import QUIET, peak_memory, print_table, write_json
from lightning.pytorch.callbacks import Callback

STAGES = ("tokenise", "plan", "first step", "resume", "validation")
STOPS_AT = {"first step": 1, "resume": 2, "validation": 3}  # optimizer steps
EVAL_ROWS = 16  # of each task
FORMATS = ("jsonl", "parquet")
KEYS = [
    "data=local", "data.workers=1", "objective=sft", "mixer=odm", "specialists.train=never", "eval.start=false",
    "reference.sft_steps=0", f"eval_rows={EVAL_ROWS}", "batch_size=32", "steps=3", "val_every=3", "progress=false",
    "+callbacks.clock._target_=growth.Clock",
]  # fmt: skip
NOISE = {"cpu_s": 0.2, "anonymous_mib": 16.0}  # less than this over the first size is none
ROWS_AT_FIRST = 1_200  # of a task: enough that its token tables are cached, as at all other sizes
BYTES_A_ROW = 400  # on the disk: the file, a copy of parquet in Arrow, token tables
WORDS = ["river", "stone", "light", "green", "seven", "under", "paper", "often", "music", "house", "early", "cloud"]
MIB = 2**20


@dataclass(frozen=True)
class Sweep:
    """Sizes as (tasks, rows a task), the first of which is small."""

    name: str
    sizes: list[tuple[int, int]]


def _sweeps(tasks: Sequence[int], rows_a_task: int, rows: Sequence[int]) -> list[Sweep]:
    by_rows = [(10, ROWS_AT_FIRST), *((10, n) for n in rows)]
    return [Sweep("tasks", [(1, rows_a_task), *((n, rows_a_task) for n in tasks)]), Sweep("rows", by_rows)]


SHORT = _sweeps((10, 20, 40), ROWS_AT_FIRST, (10_000, 20_000))
USUAL = _sweeps((20, 40, 60, 80), ROWS_AT_FIRST, (10_000, 15_000, 20_000, 25_000))
WHOLE = _sweeps((125, 250, 500, 1_000), 10_000, (1_250_000, 2_500_000, 5_000_000, 10_000_000))


def main() -> None:
    options = _options()
    sweeps = WHOLE if options.whole else SHORT if options.short else USUAL
    if options.sizes:
        rows_a_task = 10_000 if options.whole else ROWS_AT_FIRST
        sweeps = _sweeps(options.sizes, rows_a_task, options.sizes)
    with tempfile.TemporaryDirectory(prefix="mixalign-growth-", dir=options.folder) as folder:
        os.environ.update(QUIET | {"OMP_NUM_THREADS": "1", "MIXALIGN_TARGETS": "growth.Clock"})
        os.environ.update({"HF_DATASETS_CACHE": f"{folder}/datasets", "HF_HOME": f"{folder}/hf"})
        _load()
        records = [
            record
            for sweep in sweeps
            if sweep.name in options.sweeps
            for ending in options.formats
            for record in _measured(sweep, ending, Path(folder))
        ]
    found = list(_curves(records))
    print_table(*_table(found))
    read = {r["rows_validated"] / r["tasks"] for r in records if r["stage"] == "validation" and r["size"]}
    print(f"rows of a task that a validation read: {', '.join(f'{n:g}' for n in sorted(read))}")
    fitted = {f"{c['name']} {key}": c["exponent"][key] for c in found for key in NOISE if c["exponent"][key]}
    write_json(options.json, "growth", "cpu", fitted, curves=found, runs=records)


def _options() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = made.add_mutually_exclusive_group()
    size.add_argument("--short", action="store_true", help="small sizes, in about two minutes")
    size.add_argument("--whole", action="store_true", help="up to 1,000 tasks of 10,000 rows, and 10 of 10 million")
    made.add_argument("--sizes", nargs="+", type=int, help="tasks, or rows in each of ten tasks, in place of the usual")
    made.add_argument("--sweeps", nargs="+", choices=("tasks", "rows"), default=("tasks", "rows"))
    made.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    made.add_argument("--folder", type=Path, help="for rows and caches, of one size at a time")
    made.add_argument("--json", type=Path, help="writes the figures here")
    return made.parse_args()


def _load() -> None:
    """What every stage imports, once."""
    import datasets  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import mixalign.verbs.plan
    import mixalign.verbs.train  # noqa: F401

    gc.freeze()  # so that collections of a fork leave shared pages as they are


# --- one size: rows, and the stages over them ---------------------------------------------------------------------


def _measured(sweep: Sweep, ending: str, folder: Path) -> Iterator[dict[str, Any]]:
    for number, (tasks, rows) in enumerate(sweep.sizes):
        if (wanted := tasks * rows * BYTES_A_ROW) > (free := shutil.disk_usage(folder).free):
            raise SystemExit(f"{tasks} tasks of {rows} rows take about {wanted >> 20} MiB, and {free >> 20} are free.")
        place = folder / "size"
        (place / "rows").mkdir(parents=True)
        _forked(partial(_write, place / "rows", tasks, rows, ending), place / "log")
        for stage in STAGES:
            record = _run(stage, place)
            where = {"sweep": sweep.name, "format": ending, "size": number, "tasks": tasks, "rows_a_task": rows}
            said = f"{tasks} x {rows} {ending}, {stage}: {record['cpu_s']:.1f} s, {record['anonymous_mib']:.0f} MiB"
            print(said, file=sys.stderr, flush=True)
            yield {**where, "stage": stage, **record}
        shutil.rmtree(place)
        shutil.rmtree(folder / "datasets", ignore_errors=True)


def _write(folder: Path, tasks: int, rows: int, ending: str) -> None:
    """A file a task of prompts that are all different, and answers of four words."""
    words = np.array(WORDS)
    for task in range(tasks):
        picked = np.random.default_rng(task).integers(0, len(words), (rows, 4))
        path = folder / f"t{task:04}.{ending}"
        if ending == "parquet":
            _write_parquet(path, task, words, picked)
            continue
        with path.open("w") as file:
            for n, four in enumerate(picked):
                row = {"prompt": f"{task} {n}: ", "completion": " ".join(words[four])}
                file.write(json.dumps(row) + "\n")


def _write_parquet(path: Path, task: int, words: np.ndarray, picked: np.ndarray) -> None:
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema({"prompt": pyarrow.string(), "completion": pyarrow.string()})
    with parquet.ParquetWriter(path, schema) as file:
        for start in range(0, len(picked), 100_000):
            some = picked[start : start + 100_000]
            prompts = [f"{task} {n}: " for n in range(start, start + len(some))]
            answers = [" ".join(words[four]) for four in some]
            file.write_table(pyarrow.table([prompts, answers], schema=schema))


def _run(stage: str, place: Path) -> dict[str, Any]:
    """One stage in a process of its own: what it measured."""
    record, log = place / "record.json", place / "log"
    record.unlink(missing_ok=True)
    os.environ["GROWTH_STAGE"], os.environ["GROWTH_RECORD"] = stage, str(record)
    status = _forked(partial(_command, stage, place), log)
    if not record.is_file():
        raise SystemExit(f"{stage} ended with {status}:\n{log.read_text()[-3000:]}")
    return json.loads(record.read_text())


def _command(stage: str, place: Path) -> None:
    from mixalign.cli import main as mixalign

    sys.modules["growth"] = sys.modules[__name__]  # whose clock the callback reads
    global _began
    _began = time.perf_counter()
    threading.Thread(target=_watch, daemon=True).start()
    verb = "train" if stage in STOPS_AT else "plan"
    folders = [f"data.root={place}/rows", f"cache_dir={place}/cache"]
    sys.argv = ["mixalign", verb, *KEYS, *folders, *([f"run_dir={place}/run"] if verb == "train" else [])]
    try:
        mixalign()
    except SystemExit as end:
        if not end.code and verb == "plan":
            _note(time.perf_counter() - _began, time.process_time())


def _forked(call: Callable[[], None], log: Path) -> int:
    """Runs a function in a fork of this process, what it says going into a file, and waits for it."""
    if (child := os.fork()) == 0:
        _in_fork(call, log)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _in_fork(call: Callable[[], None], log: Path) -> NoReturn:
    try:
        to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(to, 1)
        os.dup2(to, 2)
        call()
        sys.stdout.flush()
        os._exit(0)
    finally:
        import traceback

        traceback.print_exc()
        os._exit(1)


_began = time.perf_counter()
_anonymous = [0.0]


def _note(wall_s: float, cpu_s: float, rows: int = 0) -> None:
    """Writes what a stage took."""
    found = {"wall_s": wall_s, "cpu_s": cpu_s, "anonymous_mib": max(_anonymous, default=0.0), **peak_memory("cpu")}
    Path(os.environ["GROWTH_RECORD"]).write_text(json.dumps({**found, "rows_validated": rows}))


def _watch() -> None:
    """Notes a higher anonymous memory of this process, for ever."""
    while True:
        text = Path("/proc/self/status").read_text()
        mib = int(text.split("RssAnon:")[1].split()[0]) / 1024
        if mib > _anonymous[-1]:
            _anonymous.append(mib)
        time.sleep(0.02)


class Clock(Callback):
    """Notes the end of the step, or of the validation, that a stage goes up to, and has the run stopped."""

    def __init__(self) -> None:
        self.stage = os.environ.get("GROWTH_STAGE", "")
        self.rows = 0
        self.start = (0.0, 0.0)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if self.stage != "validation" and trainer.global_step == STOPS_AT[self.stage]:
            _note(time.perf_counter() - _began, time.process_time())
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_start(self, *_: Any) -> None:
        self.start = time.perf_counter(), time.process_time()

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.rows += len(batch["task_B"])

    def on_validation_end(self, *_: Any) -> None:
        if self.stage == "validation":
            _note(time.perf_counter() - self.start[0], time.process_time() - self.start[1], self.rows)
            os._exit(0)


# --- curves -------------------------------------------------------------------------------------------------------


def _curves(records: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The sizes of each stage of a sweep, in order, with the exponents of its cost."""
    for name in dict.fromkeys((r["sweep"], r["format"], r["stage"]) for r in records):
        points = [r for r in records if (r["sweep"], r["format"], r["stage"]) == name]
        rows = [r["tasks"] * r["rows_a_task"] for r in points]
        costs = {key: [r[key] for r in points] for key in NOISE}
        fitted = {key: _exponent(rows, cost, NOISE[key]) for key, cost in costs.items()}
        yield {"name": " ".join(name), "rows": rows, **costs, "exponent": fitted}


def _exponent(rows: Sequence[int], cost: Sequence[float], noise: float) -> float | None:
    """That of cost - cost[0], over the upper half of sizes; None where the largest costs hardly more than the first."""
    upper = slice(len(rows) // 2, None)
    more = np.array(cost[upper]) - cost[0]
    if more.min() <= 0 or more[-1] < noise:
        return None
    return float(np.polyfit(np.log(np.array(rows[upper])), np.log(more), 1)[0])


def _table(curves: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    head = ["sweep, rows, stage", "CPU s, by size", "exponent", "MiB, by size", "exponent", "bytes a row"]
    body = []
    for c in curves:
        bytes_a_row = MIB * (c["anonymous_mib"][-1] - c["anonymous_mib"][0]) / (c["rows"][-1] - c["rows"][0])
        seconds = " ".join(f"{s:.3g}".rjust(5) for s in c["cpu_s"])
        memory = " ".join(f"{m:.0f}".rjust(5) for m in c["anonymous_mib"])
        fitted = [f"{x:.2f}" if (x := c["exponent"][key]) else "flat" for key in ("cpu_s", "anonymous_mib")]
        body.append([c["name"], seconds, fitted[0], memory, fitted[1], f"{bytes_a_row:.0f}"])
    return head, body


if __name__ == "__main__":
    main()

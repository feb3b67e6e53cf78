"""Kills trainings at random moments, starts them again, and compares what they end with to an undisturbed run.

Every case trains once undisturbed and again under kills: SIGKILL to the process and all it started, or SIGTERM to the
first process, which must end with 143. They come at any moment, before the training (with an empty cache, so that
references, specialists and scores are being made), while it trains, validates or ends, while a checkpoint is being
written, and in scoring, influence, export and merging. Final weights, the path of the mixture, counters, metrics and
results, also of merges, must be the same bytes. `--kills 50` over all cases; exit status 1 when one differs.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIZES = {"helpful": 400, "reverse": 120, "compare": 160}
SHORT = (
    "steps=120",
    "val_every=10",
    "save_every=4",
    "log_every=2",
    "batch_size=12",
    "reference.sft_steps=20",
    "specialists.steps=15",
    "progress=false",
    "trainer.accelerator=cpu",
    *(f"data.tasks.{task}=null" for task in ("format", "safe", "taste")),
    *(
        f"data.tasks.{task}={{generator: {task}, rows: {rows}, validation_rows: 40, test_rows: 40}}"
        for task, rows in SIZES.items()
    ),
)
CASES: dict[str, tuple[str, ...]] = {
    "ama_s": ("mixer=ama_s",),
    "ama_r": ("mixer=ama_r",),
    "uniform": ("mixer=uniform", "specialists.train=never"),
    "ama_s, accumulated, cosine": ("mixer=ama_s", "micro_batch_size=4", "optimizer.schedule=cosine"),
    "ama_r, LoRA": ("mixer=ama_r", "lora=default", "lora.r=4"),
    "ama_s, packed": ("mixer=ama_s", "engine.layout=packed"),
    "ama_r, workers": ("mixer=ama_r", "data.workers=2", "optimizer.schedule=linear"),
    "ideal": ("mixer=ideal", "objective=sft", "mixer.rounds=1", "steps=30", "influence.samples=32"),
    "ama_s, merged": ("mixer=ama_s", "steps=40", "merge.methods=[linear,ties]"),
    "ama_r, two ranks": ("mixer=ama_r", "trainer.devices=2", "trainer.strategy=ddp"),
}
COMPARED = ("mix.jsonl", "mixture.json", "eval.json", "metrics.csv")
Start = Callable[[str, Path], Any]  # of a case in a folder; gives what has the methods of subprocess.Popen
AIMS = ("any moment", "stages", "training", "checkpoint", "scoring", "export")  # where a kill aims, in equal shares
MORE_AIMS = {"ideal": ("influence",) * 2, "ama_s, merged": ("merging",) * 4}  # of cases that have such a stage
LIMIT = 300.0  # seconds of one start
PATIENCE = 60.0  # seconds between SIGTERM and the end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="in all, shared out over the cases")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--jobs", type=int, default=2, help="cases that run side by side")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"), help="is emptied first")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    began = time.monotonic()
    shares = [args.kills // len(args.cases) + (n < args.kills % len(args.cases)) for n in range(len(args.cases))]
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [
            pool.submit(disturb, case, share, args.folder / str(n), random.Random(f"{args.seed} {case}"))
            for n, (case, share) in enumerate(zip(args.cases, shares, strict=True))
        ]
        found = [job.result() for job in jobs]
    where = sum((one.where for one in found), Counter())
    good = sum(not one.differing for one in found)
    print(f"killed {where.total()} times: {', '.join(f'{phase} {n}' for phase, n in where.most_common())}")
    print(f"{good} of {len(found)} cases equal, bit for bit, after {where.total()} kills in {len(found)} cases")
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(good < len(found))


@dataclass
class Disturbed:
    """What became of one case: files that differ, and how often it was killed while doing what."""

    differing: list[str] = field(default_factory=list)
    where: Counter[str] = field(default_factory=Counter)


def arguments(case: str, folder: Path) -> list[str]:
    """Of `mixalign`, for a run in a folder with a cache of its own."""
    return ["train", *SHORT, *CASES[case], f"run_dir={folder / 'run'}", f"cache_dir={folder / 'cache'}"]


def start(case: str, folder: Path) -> subprocess.Popen:
    """Starts a run, whose log is the file `log` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mixalign", *arguments(case, folder)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("w") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def disturb(case: str, kills: int, folder: Path, rng: random.Random, start: Start = start) -> Disturbed:
    """Trains a case undisturbed, and under so many kills; compares."""
    calm, stormy = folder / "calm", folder / "stormy"
    before, after = _run(start, case, calm)
    found = Disturbed()
    while found.where.total() < kills:
        phase = _kill_once(start, case, stormy, before, after, rng)
        if phase is None:  # it was faster: this run is compared, and another one begins
            found.differing += _differences(calm / "run", stormy / "run")
            stormy.rename(folder / f"done_{len(list(folder.iterdir()))}")  # to look at, should it differ
        else:
            found.where[phase] += 1
    _run(start, case, stormy)
    found.differing += _differences(calm / "run", stormy / "run")
    print(
        f"{case}: {kills} kills, {'DIFFERS in ' + ', '.join(found.differing) if found.differing else 'equal'}",
        flush=True,
    )
    return found


def _run(start: Start, case: str, folder: Path) -> tuple[float, float]:
    """Runs to the end; gives the seconds before its first training step and those after it."""
    begin, process, first = time.time(), start(case, folder), 0.0
    try:
        while process.poll() is None and time.time() < begin + LIMIT:
            first = first or (time.time() if _trains_since(folder, begin) else 0.0)
            time.sleep(0.05)
        code = process.poll() if process.poll() is not None else "a hang"
    finally:
        _kill(process)
    if code:
        sys.exit(f"{case} ended with {code}:\n{(folder / 'log').read_text()[-3000:]}")
    return first - begin, time.time() - first


def _kill_once(start: Start, case: str, folder: Path, before: float, after: float, rng: random.Random) -> str | None:
    """Kills one start at a random moment; says what it was doing and how it ended, or None when it had finished."""
    aim = rng.choice(AIMS + MORE_AIMS.get(case, ()))
    if aim in ("stages", "scoring") and not (folder / "run" / "eval.json").is_file():  # merges need what is there
        shutil.rmtree(folder / "cache", ignore_errors=True)
    begin, process = time.time(), start(case, folder)
    if aim in REACHED:
        while process.poll() is None and not REACHED[aim](folder, begin):
            time.sleep(0.002)
        _sleep(process, rng.uniform(0, 0.5))
    elif aim == "any moment":
        _sleep(process, rng.uniform(0, before + after))
    elif aim == "stages":
        _sleep(process, rng.uniform(0.4, 1) * before)  # the first part is the start of Python
    else:
        while process.poll() is None and not _trains_since(folder, begin):
            time.sleep(0.01)
        _sleep(process, rng.uniform(0, 0.7 * after))
        while aim == "checkpoint" and process.poll() is None and not _is_saving(folder):
            pass  # it takes milliseconds
    if code := process.poll():
        sys.exit(f"{case} ended by itself with {code}:\n{(folder / 'log').read_text()[-3000:]}")
    if code == 0:
        return None
    phase = aim if aim in REACHED else _phase(folder, begin)
    if rng.random() < 0.5:
        _kill(process)
        return f"{phase} (SIGKILL)"
    try:
        code = _stop(process)
    finally:
        _kill(process)
    if code == 0:  # it had just finished
        return None
    if code != 128 + signal.SIGTERM:
        sys.exit(f"{case}: in {phase}, SIGTERM led to {code}:\n{(folder / 'log').read_text()[-3000:]}")
    return f"{phase} (SIGTERM)"


def _stop(process: Any) -> int | str:
    """Sends SIGTERM; the exit status, or that there was none."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    end = time.time() + PATIENCE
    while process.poll() is None and time.time() < end:
        time.sleep(0.01)
    code: int | None = process.poll()
    return "a hang" if code is None else code


def _scores(folder: Path, begin: float) -> bool:
    return any(path.stat().st_mtime > begin for path in (folder / "cache" / "scores").glob("*.safetensors"))


def _measures(folder: Path, begin: float) -> bool:
    return any(not path.with_name("benefit.json").is_file() for path in (folder / "run").glob("rounds/0/round.json"))


def _exports(folder: Path, begin: float) -> bool:
    return any(path.stat().st_mtime > begin for path in (folder / "run").glob("**/cost.json"))


def _merges(folder: Path, begin: float) -> bool:
    done = folder / "run" / "eval.json"
    return done.is_file() and (done.stat().st_mtime > begin or "is finished already" in (folder / "log").read_text())


REACHED = {"scoring": _scores, "influence": _measures, "export": _exports, "merging": _merges}


def _phase(folder: Path, begin: float) -> str:
    """What a run is doing, by its files and its log."""
    if _is_saving(folder):
        return "writing a checkpoint"
    if _trains_since(folder, begin):
        return "training and validation"
    said = (folder / "log").read_text().rstrip().split("\n")[-1]
    stages = {
        "specialist ": "specialists",
        "reference: ": "reference",
        "engine: ": "tokens and scores",
        "round ": "rounds",
    }
    return next((name for start, name in stages.items() if said.startswith(start)), "start")


def _sleep(process: Any, seconds: float) -> None:
    end = time.time() + seconds
    while process.poll() is None and time.time() < end:
        time.sleep(0.01)


def _trains_since(folder: Path, begin: float) -> bool:
    """Whether a step of a mixture was written after a moment."""
    found = [*(folder / "run").glob("mix.jsonl"), *(folder / "run").glob("rounds/*/mix.jsonl")]
    return any(path.stat().st_mtime > begin for path in found)


def _is_saving(folder: Path) -> bool:
    return any((folder / "run").glob("**/checkpoints/.*.ckpt.*"))


def _kill(process: Any) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _differences(calm: Path, stormy: Path) -> list[str]:
    names = [*COMPARED, *(str(p.relative_to(calm)) for p in (calm / "model").glob("*.safetensors"))]
    differing = [name for name in names if (calm / name).read_bytes() != (stormy / name).read_bytes()]
    for merge in calm.parent.glob(f"{calm.name}_merge_*"):
        for path in (merge / "eval.json", *(merge / "model").glob("*.safetensors")):
            name = path.relative_to(calm.parent)
            if not (stormy.parent / name).is_file() or path.read_bytes() != (stormy.parent / name).read_bytes():
                differing.append(str(name))
    return differing


if __name__ == "__main__":
    main()

"""Kills trainings at random moments, starts them again, and compares what they end with to an undisturbed run.

Every case trains once undisturbed and again under kills (SIGKILL to the process and all it started): at any moment,
while it trains or ends, or while a checkpoint is being written. Final weights, the path of the mixture, counters,
metrics and results must be the same bytes. `--kills 50` over all cases; exit status 1 when one differs.
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
from contextlib import suppress
from pathlib import Path

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
    "ideal": ("mixer=ideal", "objective=sft", "mixer.rounds=1", "steps=30", "influence.samples=32"),
    "ama_r, two ranks": ("mixer=ama_r", "trainer.devices=2", "trainer.strategy=ddp"),
}
COMPARED = ("mix.jsonl", "mixture.json", "eval.json", "metrics.csv")
AIMS = ("any moment", "training", "checkpoint")  # what a kill waits for before its random delay, in equal shares
LIMIT = 300.0  # seconds of one start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="in all, shared out over the cases")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"), help="is emptied first")
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    rng, wrong, killed, began = random.Random(args.seed), [], 0, time.monotonic()
    where: Counter[str] = Counter()
    for number, case in enumerate(args.cases):
        share = args.kills // len(args.cases) + (number < args.kills % len(args.cases))
        calm, stormy = (args.folder / f"{number}_{kind}" for kind in ("calm", "stormy"))
        before, after = _run(case, calm)
        kills, differing = 0, []
        while kills < share:
            phase = _kill_once(case, stormy, before, after, rng)
            if phase is None:  # it was faster: this run is compared, and another one begins
                differing += _differences(calm / "run", stormy / "run")
                shutil.rmtree(stormy)
                continue
            kills += 1
            where[phase] += 1
        killed += kills
        _run(case, stormy)
        differing += _differences(calm / "run", stormy / "run")
        wrong += [f"{case}: {name}" for name in differing]
        print(
            f"{case}: {share} kills, {'equal' if not differing else 'DIFFERS in ' + ', '.join(differing)}", flush=True
        )
    print(f"killed {killed} times: {', '.join(f'{phase} {n}' for phase, n in where.most_common())}")
    print(f"{len(args.cases) - len({w.split(':')[0] for w in wrong})} of {len(args.cases)} cases equal, bit for bit")
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(bool(wrong))


def _start(case: str, folder: Path) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mixalign", "train", *SHORT, *CASES[case]]
    command += [f"run_dir={folder / 'run'}", f"cache_dir={folder / 'cache'}"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("w") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def _run(case: str, folder: Path) -> tuple[float, float]:
    """Runs to the end; gives the seconds before its first training step and those after it."""
    begin, process, first = time.time(), _start(case, folder), 0.0
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


def _kill_once(case: str, folder: Path, before: float, after: float, rng: random.Random) -> str | None:
    """Kills one start at a random moment; says what it was doing, or None when it had finished."""
    begin, process, aim = time.time(), _start(case, folder), rng.choice(AIMS)
    if aim == "any moment":
        _sleep(process, rng.uniform(0, before + after))
    else:
        while process.poll() is None and not _trains_since(folder, begin):
            time.sleep(0.01)
        _sleep(process, rng.uniform(0, 0.7 * after))
        while aim == "checkpoint" and process.poll() is None and not _is_saving(folder):
            pass  # it takes milliseconds
    if process.poll() is not None:
        return None
    saving, phase = _is_saving(folder), "training" if _trains_since(folder, begin) else "before training"
    _kill(process)
    return "while a checkpoint was written" if saving else phase


def _sleep(process: subprocess.Popen, seconds: float) -> None:
    end = time.time() + seconds
    while process.poll() is None and time.time() < end:
        time.sleep(0.01)


def _trains_since(folder: Path, begin: float) -> bool:
    """Whether a step of a mixture was written after a moment."""
    found = [*(folder / "run").glob("mix.jsonl"), *(folder / "run").glob("rounds/*/mix.jsonl")]
    return any(path.stat().st_mtime > begin for path in found)


def _is_saving(folder: Path) -> bool:
    return any((folder / "run").glob("**/checkpoints/.*.ckpt.*"))


def _kill(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _differences(calm: Path, stormy: Path) -> list[str]:
    names = [*COMPARED, *(str(p.relative_to(calm)) for p in (calm / "model").glob("*.safetensors"))]
    return [name for name in names if (calm / name).read_bytes() != (stormy / name).read_bytes()]


if __name__ == "__main__":
    main()

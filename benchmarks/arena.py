"""Which mixer wins where: mixers on every set-up of conf/arena over seeds, each compared with uniform sampling.

Every seed of a small set-up has its own data, weights, reference and specialists, which all mixers of the seed share,
so that differences are paired. Runs are judged once, at the end, on test rows that nothing else looks at. Two processes
work at a time; a command that was stopped goes on where it was. Results go to benchmarks/results/arena.json, and
`python benchmarks/arena_table.py` writes the tables of README.md and docs/arena.md from it.

    python benchmarks/arena.py quick                                      # small models, 4 seeds: under 40 minutes
    python benchmarks/arena.py full                                       # 8 seeds, and SmolLM2 where it is at hand
    python benchmarks/arena.py quick --setups noisy twelve --mixers uniform ama_s "ama_s mixer.wrap.floor=0.4"
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are too small for more

from arena_table import MEASURES, RESULTS, all_tables

from mixalign.config.compose import CONF, compose_settings
from mixalign.errors import MixalignError
from mixalign.files import write_json
from mixalign.fingerprint import fingerprint

MIXERS = ("uniform", "proportional", "ama_s", "ama_s mixer.wrap.floor=0.4", "ama_e", "dynamic_batch")
SEEDS = {"quick": 4, "full": 8}
REAL = "smol"  # how set-ups begin that need a trained model and real rows
ROOT = Path(__file__).resolve().parents[1]
MARK = "arena.txt"  # in a run's folder: the fingerprint of its set-up


@dataclass(frozen=True)
class Unit:
    """All mixers on one seed of a set-up, one after the other: they share what is made on the way.

    Attributes:
        runs: label of a mixer -> overrides of its run.
    """

    setup: str
    seed: int
    runs: dict[str, list[str]]
    folder: Path
    made_by: str  # fingerprint of the set-up

    def place(self, label: str) -> Path:
        return run_folder(self.folder, self.setup, label, self.seed)


def main() -> int:
    args = _arguments()
    names = args.setups or sorted(path.stem for path in (CONF / "arena").glob("[!_]*.yaml"))
    skipped = {name: reason for name in names if (reason := why_skipped(name, args.form))}
    for name, reason in skipped.items():
        print(f"{name} is skipped: {reason}")
    wanted = [name for name in names if name not in skipped]
    seeds = list(range(args.seeds or SEEDS[args.form]))
    units = [unit(name, seed, args) for seed in seeds for name in wanted]
    failed = {} if args.gather else work(units, args.jobs, args.runs)
    results = gather(args, wanted, seeds, skipped)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.json, results)
    print(all_tables(results))
    print(f"figures: {args.json}")
    for what, reason in failed.items():
        print(f"failed: {what}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=SEEDS, nargs="?", default="quick")
    parser.add_argument("--setups", nargs="+", help="files of conf/arena; default: all")
    parser.add_argument(
        "--mixers", nargs="+", default=MIXERS, help='names, or a name and overrides: "ama_s mixer.eta=0.05"'
    )
    parser.add_argument("--seeds", type=int, help=f"default: {SEEDS['quick']} for quick, {SEEDS['full']} for full")
    parser.add_argument("--jobs", type=int, default=2, help="processes that train at a time")
    parser.add_argument("--runs", type=Path, default=Path("runs/arena"), help="finished runs in here are kept")
    parser.add_argument("--gather", action="store_true", help="train nothing: the tables of what is finished")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--overrides", nargs="+", default=[], help="configuration keys of every run")
    args = parser.parse_args()
    if "uniform" not in args.mixers:
        parser.error("`uniform` must be among --mixers: all others are compared with it")
    return args


def why_skipped(name: str, form: str) -> str:
    """Why a set-up cannot run here; empty when it can.

    Raises:
        MixalignError: when there is no such set-up.
    """
    path = CONF / "arena" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in (CONF / "arena").glob("[!_]*.yaml")))
        raise MixalignError(f"There is no set-up `{name}` in {path.parent}. Known: {known}.")
    if not name.startswith(REAL):
        return ""
    if form == "quick":
        return "it trains SmolLM2 on real rows, which takes longer than quick=1 has"
    settings = compose_settings([f"arena={name}"])
    if not Path(str(settings.data.root)).is_dir():
        return f"there are no rows in {settings.data.root}"
    try:
        assert settings.model.path  # of the package, which may not be installed
    except MixalignError as error:
        return str(error)
    return ""


def unit(name: str, seed: int, args: argparse.Namespace) -> Unit:
    runs = {}
    for label in args.mixers:
        mixer, *more = label.split()
        runs[label] = [f"mixer={mixer}", *more, *args.overrides]
    shared = "_smol" if name.startswith(REAL) else "_small"
    texts = [(CONF / "arena" / f"{stem}.yaml").read_text() for stem in (shared, name)]
    return Unit(name, seed, runs, args.runs, fingerprint({"setup": texts, "overrides": args.overrides}))


def run_folder(folder: Path, setup: str, label: str, seed: int) -> Path:
    return folder / setup / f"{''.join(c if c.isalnum() else '_' for c in label)}_seed{seed}"


# --- training -----------------------------------------------------------------------------------------------------


def work(units: Sequence[Unit], jobs: int, folder: Path) -> dict[str, str]:
    """Trains what is missing. Returns what failed, and why."""
    missing = [one for one in units if not all(_is_finished(one, label) for label in one.runs)]
    if not missing:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"{len(missing)} of {len(units)} seeds of set-ups are to be trained; what is said: {folder}/*.log", flush=True
    )
    failed, began = {}, time.monotonic()
    context = multiprocessing.get_context("spawn")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(folder,)) as pool:
        futures: dict[Future[dict[str, str]], Unit] = {pool.submit(train_unit, one): one for one in missing}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                one = futures[future]
                failed |= future.result()
                spent = time.monotonic() - began
                left = spent / number * (len(missing) - number)
                print(
                    f"[{number}/{len(missing)}] {one.setup} seed {one.seed}; about {left / 60:.0f} min left", flush=True
                )
        except BaseException:
            for process in list(pool._processes.values()):
                process.terminate()  # each saves itself, and the same command goes on
            pool.shutdown(wait=False, cancel_futures=True)
            print(f"stopped; the same command goes on with what is in {folder}", file=sys.stderr)
            raise
    return failed


def _begin(folder: Path) -> None:
    """In each process that trains: what it says goes into a file, and it ends with the one that started it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)  # runs go on from their last checkpoint

    threading.Thread(target=end, daemon=True).start()
    log = (folder / f"{os.getpid()}.log").open("a")
    os.dup2(log.fileno(), sys.stdout.fileno())
    os.dup2(log.fileno(), sys.stderr.fileno())


def train_unit(one: Unit) -> dict[str, str]:
    """Trains the mixers of a seed that are missing. Returns what failed, and why."""
    from mixalign import train

    failed = {}
    for label, overrides in one.runs.items():
        if _is_finished(one, label):
            continue
        place = one.place(label)
        common = [f"arena={one.setup}", f"seed={one.seed}", f"cache_dir={one.folder / 'cache'}", "progress=false"]
        try:
            train(*common, *overrides, run_dir=str(place))
        except MixalignError as error:
            failed[f"{one.setup}, {label}, seed {one.seed}"] = str(error)
            continue
        except SystemExit:  # it was told to stop, and has saved itself: no other seed begins here
            os._exit(1)
        for name in ("checkpoints", "model", "base", "rounds", "proxy"):
            shutil.rmtree(place / name, ignore_errors=True)
        (place / MARK).write_text(one.made_by)
    return failed


def _is_finished(one: Unit, label: str) -> bool:
    """Whether this run is finished.

    Raises:
        MixalignError: when it was made from another set-up of the same name.
    """
    place = one.place(label)
    if not (place / MARK).is_file():
        return False
    if (place / MARK).read_text() != one.made_by:
        raise MixalignError(
            f"{place} holds a run of another version of conf/arena/{one.setup}.yaml, or with other --overrides. Give "
            "another folder (--runs), or delete that one."
        )
    return True


# --- results ------------------------------------------------------------------------------------------------------


def gather(args: argparse.Namespace, names: Sequence[str], seeds: Sequence[int], skipped: dict[str, str]) -> dict:
    """What benchmarks/results/arena.json holds; a run that failed is null."""
    setups: dict[str, Any] = {name: _setup(name, args, seeds) for name in names}
    setups |= {name: {"what": _what(name), "skipped": reason} for name, reason in skipped.items()}
    return {"form": args.form, "seeds": len(seeds), "mixers": list(args.mixers), "setups": setups}


def _setup(name: str, args: argparse.Namespace, seeds: Sequence[int]) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for label in args.mixers:
        found = [_read(run_folder(args.runs, name, label, seed)) for seed in seeds]
        scores[label] = {measure: [run and run[measure] for run in found] for measure in (*MEASURES, "cpu_seconds")}
        about = next((run["about"] for run in found if run), about)
    return {"what": _what(name), **about, "scores": scores}


def _read(folder: Path) -> dict[str, Any] | None:
    if not (folder / MARK).is_file():
        return None
    result = json.loads((folder / "eval.json").read_text())
    tasks = result["tasks"].values()
    cost = json.loads((folder / "cost.json").read_text())
    about = {"objective": result["objective"], "tasks": len(tasks), "steps": result["steps"]}
    return {
        "worst_excess": max(row["excess"] for row in tasks),
        "mean_excess": sum(row["excess"] for row in tasks) / len(tasks),
        "worst_gap": max(row["gap"] for row in tasks),
        "mean_loss": sum(row["loss"] for row in tasks) / len(tasks),
        "cpu_seconds": cost["cpu_seconds"],
        "about": about | {"test_rows": min(row["rows"] for row in tasks)},
    }


def _what(name: str) -> str:
    """The set-up in a line: the second one of its file."""
    return (CONF / "arena" / f"{name}.yaml").read_text().splitlines()[1].removeprefix("# ")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MixalignError as error:
        sys.exit(f"error: {error}")

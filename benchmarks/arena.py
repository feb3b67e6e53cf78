"""Which mixer wins where: mixers on every set-up of conf/arena over seeds, each compared with uniform sampling.

Every seed of a small set-up has its own data, weights, reference and specialists, which all mixers of the seed share,
so that differences are paired. Runs are judged once, at the end, on test rows that nothing else looks at. Two processes
work at a time; a command that was stopped goes on where it was. Results go to benchmarks/results/arena.json, and
`python benchmarks/arena_table.py` writes the tables of docs/evidence.md and docs/arena.md from it.

    python benchmarks/arena.py quick                                      # small models, 4 seeds: under 40 minutes
    python benchmarks/arena.py full                                       # 8 seeds, and SmolLM2 where it is at hand
    python benchmarks/arena.py quick --setups noisy twelve --mixers uniform ama_s "ama_s mixer.wrap.floor=0.4"
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are too small for more

from arena_table import MEASURES, RESULTS, all_tables
from many_runs import Unit, add_arguments, status_of, work, write_figures
from real_rows import why_not_at_hand

from mixalign.config.compose import CONF, compose_settings
from mixalign.errors import MixalignError
from mixalign.fingerprint import fingerprint

MIXERS = ("uniform", "proportional", "ama_s", "ama_s mixer.wrap.floor=0.4", "ama_e", "dynamic_batch")
SEEDS = {"quick": 4, "full": 8}
REAL = "smol"  # how set-ups begin that need a trained model and real rows
ROOT = Path(__file__).resolve().parents[1]
MARK = "arena.txt"  # in a run's folder: the fingerprint of its set-up


def main() -> int:
    args = _arguments()
    names = args.setups or sorted(path.stem for path in (CONF / "arena").glob("[!_]*.yaml"))
    skipped = {name: reason for name in names if (reason := why_skipped(name, args.form))}
    for name, reason in skipped.items():
        print(f"{name} is skipped: {reason}")
    wanted = [name for name in names if name not in skipped]
    seeds = list(range(args.seeds or SEEDS[args.form]))
    units = {(name, seed): unit(name, seed, args) for seed in seeds for name in wanted}
    failed = {} if args.gather else work([*units.values()], args.jobs, args.runs)
    results = gather(args, wanted, units, skipped)
    print(all_tables(results))
    write_figures(args.json, results)
    return status_of(failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=SEEDS, nargs="?", default="quick")
    parser.add_argument("--setups", nargs="+", help="files of conf/arena; default: all")
    parser.add_argument(
        "--mixers", nargs="+", default=MIXERS, help='names, or a name and overrides: "ama_s mixer.eta=0.05"'
    )
    parser.add_argument("--seeds", type=int, help=f"default: {SEEDS['quick']} for quick, {SEEDS['full']} for full")
    add_arguments(parser, Path("runs/arena"), RESULTS)
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
    return why_not_at_hand(compose_settings([f"arena={name}"]))


def unit(name: str, seed: int, args: argparse.Namespace) -> Unit:
    runs = {}
    for label in args.mixers:
        mixer, *more = label.split()
        runs[label] = [f"mixer={mixer}", *more, *args.overrides]
    shared = "_smol" if name.startswith(REAL) else "_small"
    texts = [(CONF / "arena" / f"{stem}.yaml").read_text() for stem in (shared, name)]
    made_by = fingerprint({"setup": texts, "overrides": args.overrides})
    common = [f"arena={name}", f"seed={seed}", f"cache_dir={args.runs / 'cache'}", "progress=false"]
    return Unit(name, seed, runs, common, args.runs, made_by, f"conf/arena/{name}.yaml", MARK, {})


# --- results ------------------------------------------------------------------------------------------------------


def gather(
    args: argparse.Namespace, names: Sequence[str], units: dict[tuple[str, int], Unit], skipped: dict[str, str]
) -> dict[str, Any]:
    """What benchmarks/results/arena.json holds; a run that failed is null."""
    seeds = sorted({seed for _, seed in units})
    setups: dict[str, Any] = {name: _setup(name, args, [units[name, seed] for seed in seeds]) for name in names}
    setups |= {name: {"what": _what(name), "skipped": reason} for name, reason in skipped.items()}
    return {"form": args.form, "seeds": len(seeds), "mixers": list(args.mixers), "setups": setups}


def _setup(name: str, args: argparse.Namespace, units: Sequence[Unit]) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for label in args.mixers:
        found = [_read(one.place(label)) for one in units]
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

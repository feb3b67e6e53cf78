"""AMA against static mixtures on the generated tasks, over independent seeds.

Each seed has its own data, weights, reference and specialists, which its runs share. Prints the comparison and the
paired differences, and writes them with the README's picture to benchmarks/results/.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the model is too small for more

from mixalign import train
from mixalign.config.settings import names_a_run
from mixalign.reporting.judge.comparison import compare
from mixalign.reporting.read.labels import find_runs
from mixalign.reporting.show.plots.headline import headline
from mixalign.reporting.show.text import comparison_text

MIXERS = ("proportional", "uniform", "ama_r", "ama_s")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--mixers", nargs="+", default=MIXERS)
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"), help="finished runs in here are kept")
    parser.add_argument("overrides", nargs="*", help="configuration keys of every run")
    args = parser.parse_args()
    for seed in range(args.seeds):
        for mixer in args.mixers:
            folder = args.runs / f"{mixer}_seed{seed}"
            if not (folder / "eval.json").is_file():
                train("experiment=evidence", f"mixer={mixer}", f"seed={seed}", *args.overrides, run_dir=str(folder))
    runs = find_runs([args.runs], names_a_run)
    tables = {baseline: compare(runs, baseline) for baseline in ("proportional", "uniform")}
    for table in tables.values():
        print(comparison_text(table))
    RESULTS.mkdir(exist_ok=True)
    figures = {baseline: table.to_json() for baseline, table in tables.items()}
    (RESULTS / "evidence.json").write_text(json.dumps(figures, indent=2) + "\n")
    picture = headline([r for r in runs if r.mixer == "ama_s"], [r for r in runs if r.mixer == "proportional"])
    picture.savefig(RESULTS / "evidence.png", dpi=150)
    print(f"figures: {RESULTS / 'evidence.json'}, {RESULTS / 'evidence.png'}")


if __name__ == "__main__":
    main()

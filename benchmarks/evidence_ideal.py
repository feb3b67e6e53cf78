"""IDEAL on four generated domains against joint training, over independent seeds.

Losses are means over the test rows of the target domains after the last round, whether or not it is the best one.
Prints, for every variant, the paired difference to joint training on the same seed, and what the influences say of the
domains; writes both to benchmarks/results/evidence_ideal.json.
"""

import argparse
import json
import os
from pathlib import Path
from statistics import mean, stdev
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the model is too small for more
os.environ["MIXALIGN_TARGETS"] = "flipped_ideal.FlippedIdeal"

from common import print_table

from mixalign import train

TARGETS = ("copy", "facts", "compare")
TASKS = (*TARGETS, "legacy")
ROUNDS = ("mixer.stop=false",)
VARIANTS: dict[str, tuple[str, ...]] = {
    "joint": ("mixer=proportional",),
    "uniform": ("mixer=uniform",),
    "ideal m=0.15": ROUNDS,
    "ideal m=0.3": (*ROUNDS, "mixer.m=0.3"),
    "ideal m=0.15, K-FAC": (*ROUNDS, "influence=kfac"),
    "ideal m=0.15, identity": (*ROUNDS, "influence=identity"),
    "flipped sign, m=0.15": (*ROUNDS, "mixer._target_=flipped_ideal.FlippedIdeal"),
    "joint, 3 x the steps": ("mixer=proportional", "steps=1800"),
}
RESULTS = Path(__file__).parent / "results" / "evidence_ideal.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence_ideal"), help="finished runs in here are kept")
    args = parser.parse_args()
    losses: dict[str, list[dict[str, float]]] = {}
    benefits: dict[str, list[dict[str, Any]]] = {}
    for seed in range(args.seeds):
        for name, overrides in VARIANTS.items():
            folder = args.runs / f"{''.join(c if c.isalnum() else '_' for c in name)}_seed{seed}"
            if not (folder / "eval.json").is_file():
                train("experiment=ideal_generated", f"seed={seed}", *overrides, run_dir=str(folder))
            losses.setdefault(name, []).append(_losses(folder))
            if (folder / "rounds").is_dir():
                benefits.setdefault(name, []).append(json.loads((folder / "rounds/0/benefit.json").read_text()))
    table = [_line(name, found, losses["joint"]) for name, found in losses.items()]
    print_table(["variant", "mean loss", "minus joint", "lower in", "worst loss", "minus joint", "lower in"], table)
    print("\nBenefit of a row of each domain after the first training, largest magnitude 1 (mean over seeds):")
    per_row = {name: [_per_row(found) for found in benefits[name]] for name in benefits if "flipped" not in name}
    print_table(
        ["variant", *TASKS, "first", "last"],
        [
            [
                name,
                *(f"{mean(b[t] for b in found):+.2f}" for t in TASKS),
                _count(found, max),
                _count(found, min),
            ]
            for name, found in per_row.items()
        ],
    )
    figures = {"losses": losses, "benefits": benefits, "benefit_per_row": per_row, "table": table}
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nfigures: {RESULTS}")


def _losses(folder: Path) -> dict[str, float]:
    """Mean and worst test loss over the target domains, nats."""
    last = folder / "rounds" / "2" / "eval.json"
    tasks = json.loads((last if last.is_file() else folder / "eval.json").read_text())["tasks"]
    found = [tasks[task]["loss"] for task in TARGETS]
    return {"mean": mean(found), "worst": max(found)}


def _per_row(found: dict[str, Any]) -> dict[str, float]:
    """Benefits divided by the domains' sizes, the largest magnitude being 1."""
    volumes = {"copy": 2000, "facts": 150, "compare": 600, "legacy": 200}
    value = {task: found["benefit"][task] / volumes[task] for task in TASKS}
    largest = max(abs(x) for x in value.values())
    return {task: x / largest for task, x in value.items()}


def _count(found: list[dict[str, float]], pick: Any) -> str:
    """The domain that is most often the extreme one, and in how many seeds."""
    names = [pick(b, key=lambda task: b[task]) for b in found]
    name = max(set(names), key=names.count)
    return f"{name} {names.count(name)}/{len(names)}"


def _line(name: str, found: list[dict[str, float]], joint: list[dict[str, float]]) -> list[str]:
    cells = [name]
    for key in ("mean", "worst"):
        values = [x[key] for x in found]
        gaps = [x[key] - y[key] for x, y in zip(found, joint, strict=True)]
        error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else float("nan")
        cells.append(f"{mean(values):.3f}")
        cells += ["", ""] if name == "joint" else [f"{mean(gaps):+.3f} ±{error:.3f}", _wins(gaps)]
    return cells


def _wins(gaps: list[float]) -> str:
    return f"{sum(gap < 0 for gap in gaps)}/{len(gaps)}"


if __name__ == "__main__":
    main()

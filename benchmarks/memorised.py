"""What cross-fitted specialists, their early stop and export by the gap change on a small noisy task.

Three generated tasks; the one with flipped labels has 60 rows, which its specialist learns by heart: over its losses
on them, excess is the task's own loss plus a constant. Each seed has its own data, weights, reference and specialists.
Prints a table of means over seeds, of the test rows: weight of that task, worst gap and mean loss. All gaps are over
one set of specialists, those of one fold at their best step. Writes benchmarks/results/memorised.json.
"""

import argparse
import json
import os
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the model is too small for more

from mixalign import train
from mixalign.terminal import Column, table_text

ROWS = {"reverse": 400, "compare": 400, "taste": 60}
SMALL = "taste"
RESULTS = Path(__file__).parent / "results" / "memorised.json"
COMMON = (
    *(f"data.tasks.{task}=null" for task in ("helpful", "format", "safe")),
    *(
        f"data.tasks.{task}={{generator: {task}, rows: {rows}, validation_rows: 100, test_rows: 500}}"
        for task, rows in ROWS.items()
    ),
    *("steps=100", "batch_size=18", "val_every=10", "reference.sft_steps=100", "specialists.steps=120"),
    *("specialists.train=always", "progress=false", "trainer.accelerator=cpu", "eval_batch_size=512"),
    "average_last=null",  # the best of the steps
)
YARDSTICK = ("1", "best")  # folds and export of the specialists over which every gap is counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/memorised"), help="finished runs in here are kept")
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        for name, row in one_seed(seed, args.runs).items():
            found.setdefault(name, []).append(row)
        show(found)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(f"figures: {RESULTS}")


def one_seed(seed: int, runs: Path) -> dict[str, dict[str, float]]:
    """Of every variant: weight and gap of the small task, worst gap and mean loss."""
    variants: dict[str, tuple[str, ...]] = {}
    for folds, kept, mixer, export in product(("1", "2"), ("last", "best"), ("ama_s", "ama_r"), ("best", "best_gap")):
        if mixer == "ama_s" or kept == "last":
            specialists = (f"specialists.folds={folds}", f"specialists.export={kept}")
            name = f"{mixer}, folds {folds}, {kept} specialists, export {export}"
            variants[name] = (f"mixer={mixer}", f"export={export}", *specialists)
    over = (f"specialists.folds={YARDSTICK[0]}", f"specialists.export={YARDSTICK[1]}")
    for export in ("best", "best_gap"):
        variants[f"uniform, export {export}"] = ("mixer=uniform", f"export={export}", *over)
    results = {name: _run(seed, name, overrides, runs) for name, overrides in variants.items()}
    base = {task: row["specialist_loss"] for task, row in results["uniform, export best"][0]["tasks"].items()}
    return {name: _row(result, mixture, base) for name, (result, mixture) in results.items()}


def _run(seed: int, name: str, overrides: tuple[str, ...], runs: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = runs / f"{name.replace(', ', '_').replace(' ', '_')}_seed{seed}"
    seeds = [f"{key}seed={seed}" for key in ("", "data.", "model.", "reference.", "specialists.")]
    cache = f"cache_dir={runs / 'cache'}"
    if not (folder / "eval.json").is_file():
        train(*COMMON, *overrides, *seeds, cache, run_dir=str(folder))
    return json.loads((folder / "eval.json").read_text()), json.loads((folder / "mixture.json").read_text())


def _row(result: dict[str, Any], mixture: dict[str, Any], base: dict[str, float]) -> dict[str, float]:
    weights = mixture["loss_mean" if result["mixer"] == "ama_r" else "sample_mean"]
    gaps = {task: row["loss"] - base[task] for task, row in result["tasks"].items()}
    return {
        "weight": dict(zip(mixture["tasks"], weights, strict=True))[SMALL],
        "worst_gap": max(gaps.values()),
        "small_gap": gaps[SMALL],
        "mean_loss": result["mean"]["loss"],
    }


def show(found: dict[str, list[dict[str, float]]]) -> None:
    """The table: mean and standard error over seeds."""
    keys = ("weight", "worst_gap", "small_gap", "mean_loss")
    titles = (f"weight of {SMALL}", "worst gap", f"gap of {SMALL}", "mean loss")
    rows = [[name, *(_cell([row[key] for row in seeds]) for key in keys)] for name, seeds in found.items()]
    count = len(next(iter(found.values())))
    title = f"Test rows, {count} seed(s), mean +- standard error; nats"
    print(table_text([Column("variant", text=True), *map(Column, titles)], rows, title=title), flush=True)


def _cell(values: list[float]) -> str:
    error = f"+-{stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{error}"


if __name__ == "__main__":
    main()

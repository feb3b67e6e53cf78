"""Log-probabilities of a frozen model for all rows: mixalign's `score_rows` against TRL's precomputed reference.

Variants: `ours`, packed and longest first; `trl_default`, the rows in their order, as many at a time as a training
batch; `trl_best`, rows sorted by length and the same batch as ours. Both make the same numbers, which is checked.
"""

import argparse
import time
from typing import Any

from common import (
    ALLOCATOR,
    SIZES,
    make_rows,
    parser,
    peak_memory,
    pick_device,
    print_table,
    require_trl,
    run_benchmark,
    spread,
    write_json,
)

SIDES = ("chosen", "rejected")
BATCH = {"ours": 16, "trl_default": 8, "trl_best": 16}
TOLERANCE = 0.005  # relative, on summed log-probabilities; bfloat16 keeps three digits


def main() -> None:
    options = parser(__doc__, steps=512)
    options.set_defaults(warmup=0)
    options = options.parse_args()
    require_trl()
    if options.short and not options.worker:
        options.repeats = 1
    variants: dict[str, dict[str, str]] = {"ours": {}, "trl_default": ALLOCATOR, "trl_best": ALLOCATOR}
    found = run_benchmark(__file__, options, variants, _work, [options.size])
    if found is not None:
        _report(found, options)


def _report(found: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    sums = {variant: records[0]["mean_logp"] for variant, records in found.items()}
    off = max(abs(x / sums["ours"] - 1) for x in sums.values())
    if off > TOLERANCE:
        raise SystemExit(f"The log-probabilities differ by {off:.2%}: {sums}. The comparison would mean nothing.")
    print(f"Mean log-probabilities agree to {off:.1e}.")
    device = pick_device(options.device)
    rate = "rows_per_s" if device == "cuda" else "rows_per_cpu_s"
    body = []
    for variant, records in found.items():
        middle, least, most = spread(records, rate)
        body.append([variant, middle, f"{least:.3g}-{most:.3g}", spread(records, "peak_mib")[0]])
    print_table(["variant", "rows/s" if rate == "rows_per_s" else "rows/CPU-s", "range", "peak MiB"], body)
    ours = spread(found["ours"], rate)[0]
    ratios = {f"vs_{v}": ours / spread(records, rate)[0] for v, records in found.items() if v != "ours"}
    memory = {v: spread(records, "peak_mib")[0] for v, records in found.items()}
    print("ratios: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    runs = [record for records in found.values() for record in records]
    write_json(options.json, f"scoring_{options.size}", device, ratios, peak_mib=memory, runs=runs)


def _work(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(options.threads)
    options.device = pick_device(options.device)
    rows = make_rows(96 if options.short else options.steps, SIZES[options.size]["vocab_size"])
    mean, wall, cpu = (_ours if variant == "ours" else _trl)(variant, rows, options)
    speed = {"rows_per_s": len(rows) / wall, "rows_per_cpu_s": len(rows) / cpu, "mean_logp": mean}
    return speed | peak_memory(options.device)


def _ours(variant: str, rows: list, options: argparse.Namespace) -> tuple[float, float, float]:
    from with_mixalign import lightning_precision, make_tasks

    from mixalign.frozen.score import score_rows
    from mixalign.models.load import Pretrained
    from mixalign.training.engine import Engine, choose_layout, prepare_process

    engine = Engine(layout="packed", threads=options.threads)
    prepare_process(engine)
    model = Pretrained(str(options.models / options.size)).build().to(options.device)
    (table,) = make_tasks(rows, 1, SIDES, 1)
    layout = choose_layout(engine, model, [table])
    wall, cpu = time.perf_counter(), time.process_time()
    scores = score_rows(model, table, {}, BATCH[variant], layout, lightning_precision(options.fp32))
    return float(scores.logp_NS.mean()), time.perf_counter() - wall, time.process_time() - cpu


def _trl(variant: str, rows: list, options: argparse.Namespace) -> tuple[float, float, float]:
    import numpy as np
    import with_trl
    from trl import DPOTrainer

    found: dict[str, Any] = {}

    class Timed(DPOTrainer):
        """Notes how long the pass over the rows takes, apart from tokenising them and from loading the model."""

        def _precompute_ref_logps(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            out = super()._precompute_ref_logps(dataset, *args, **kwargs)
            found["seconds"] = time.perf_counter() - wall, time.process_time() - cpu
            found["mean"] = float(np.mean([out["ref_chosen_logps"], out["ref_rejected_logps"]]))
            return out

    if variant == "trl_best":
        rows = sorted(rows, key=lambda r: len(r["prompt"]) + max(len(r[side]) for side in SIDES), reverse=True)
    with_trl.make_trainer(
        "dpo",
        "default",
        str(options.models / options.size),
        rows,
        batch_size=BATCH[variant],
        steps=1,
        device=options.device,
        fp32=options.fp32,
        trainer_class=Timed,
        precompute_ref_log_probs=True,
    )
    return found["mean"], *found["seconds"]


if __name__ == "__main__":
    main()

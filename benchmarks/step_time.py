"""What `dpo_step.py` and `sft_step.py` have in common: one training step of mixalign against TRL's."""

import argparse
import sys
from typing import Any

from common import (
    ALLOCATOR,
    SIZES,
    StepClock,
    make_rows,
    matmul_peak,
    pick_device,
    print_table,
    require_trl,
    run_benchmark,
    save_model,
    spread,
    training_flops,
    write_json,
)

__all__ = ["compare"]

SIDES = {"dpo": ("chosen", "rejected"), "sft": ("chosen",)}
BATCH = {"dpo": 8, "sft": 16}
PACKED_BATCH = 3  # sequences of 1024 tokens that hold about as much as a batch of 16 rows
TASKS = 4
TOLERANCE = 1e-4  # nats, between the two libraries' losses in float32


def compare(kind: str, script: str, options: argparse.Namespace) -> None:
    """Measures all variants, prints the table and the ratios, and writes them."""
    require_trl()
    if options.short and not options.worker:
        options.repeats = 1
    variants = _variants(kind, options.short)
    found = run_benchmark(script, options, variants, lambda v, o: _work(kind, v, o), [options.size], ["check", "peak"])
    if found is None:
        return
    check, peak = found.pop("check")[0], found.pop("peak")[0]["flops"]
    print(
        f"Loss of one batch in float32: ours {check['ours']:.6f}, TRL {check['trl']:.6f}: "
        f"they agree (difference {check['difference']:.1e}, allowed {TOLERANCE:g})."
    )
    rate = "rows_per_s" if pick_device(options.device) == "cuda" else "rows_per_cpu_s"
    rows = make_rows(512, SIZES[options.size]["vocab_size"])
    needed = training_flops(options.size, rows, SIDES[kind])
    unit = "rows/s" if rate == "rows_per_s" else "rows/CPU-s"
    body = []
    for variant, records in found.items():
        middle, least, most = spread(records, rate)
        memory = spread(records, "peak_mib")[0]
        step, cpu = spread(records, "step_s")[0], spread(records, "step_cpu_s")[0]
        body.append([variant, middle, f"{least:.3g}-{most:.3g}", step, cpu, memory, f"{middle * needed / peak:.1%}"])
    print_table(["variant", unit, "range", "step s", "step CPU-s", "peak MiB", "FLOP utilisation"], body)
    _conclude(kind, options, found, rate, peak, check)


def _conclude(kind: str, options: argparse.Namespace, found: dict, rate: str, peak: float, check: dict) -> None:
    ours = spread(found["ours"], rate)[0]
    ratios = {f"vs_{v}": ours / spread(records, rate)[0] for v, records in found.items() if v != "ours"}
    memory = {v: spread(records, "peak_mib")[0] for v, records in found.items()}
    load = max(record["other_load"] for records in found.values() for record in records)
    print("ratios: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    less = (f"{memory['ours'] / x:.2f} of {variant}'s" for variant, x in memory.items() if variant != "ours")
    print(f"peak memory of ours: {', '.join(less)}")
    print(f"largest product: {peak / 1e9:.0f} GFLOP/s; other processes used up to {load:.2f} cores meanwhile")
    write_json(
        options.json,
        f"{kind}_step_{options.size}_{'fp32' if options.fp32 else 'bf16'}",
        pick_device(options.device),
        ratios,
        peak_mib=memory,
        peak_flops=peak,
        check=check,
        runs=[record for records in found.values() for record in records],
    )


def _variants(kind: str, short: bool) -> dict[str, dict[str, str]]:
    names = {"dpo": ("default", "best"), "sft": ("default", "padding_free", "packing", "best")}[kind]
    if short:
        names = ("default", "best")
    variants: dict[str, dict[str, str]] = {"ours": {}}
    variants |= {f"trl_{name}": ALLOCATOR for name in names}
    if not short:
        variants["trl_default_plain"] = {}  # without the allocator hints
    return variants


def _work(kind: str, variant: str, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(options.threads)
    options.device = pick_device(options.device)
    if options.short:
        options.steps, options.warmup = 6, 3
    if variant == "check":
        return _check(kind, options)
    if variant == "peak":
        return {"flops": matmul_peak("fp32" if options.fp32 else "bf16", options.device)}
    return _ours(kind, options) if variant == "ours" else _trl(kind, variant, options)


def _rows(kind: str, options: argparse.Namespace) -> tuple[list, float]:
    """Rows of the whole run, and the mean tokens of one, the prompt once a completion."""
    rows = make_rows((options.steps + options.warmup) * BATCH[kind], SIZES[options.size]["vocab_size"])
    tokens = sum(len(row["prompt"]) + len(row[side]) for row in rows for side in SIDES[kind])
    return rows, tokens / len(rows)


def _ours(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    from with_mixalign import make_tasks, prepare, train

    clock = StepClock(options.warmup, options.device)
    rows, mean_tokens = _rows(kind, options)
    tables = make_tasks(rows, TASKS, SIDES[kind], BATCH[kind])
    setup = prepare(str(options.models / options.size), tables, _objective(kind), **_how(kind, options))
    tokens, losses = train(setup, clock)
    return clock.result(tokens, mean_tokens) | {"last_loss": losses[-1]}


def _objective(kind: str) -> Any:
    from mixalign.objectives.dpo import DPO
    from mixalign.objectives.sft import SFT

    return DPO() if kind == "dpo" else SFT()


def _how(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "batch_size": BATCH[kind],
        "steps": options.steps + options.warmup,
        "device": options.device,
        "fp32": options.fp32,
        "threads": options.threads,
    }


def _trl(kind: str, variant: str, options: argparse.Namespace) -> dict[str, Any]:
    import with_trl

    name = variant.removeprefix("trl_").removesuffix("_plain")
    clock = StepClock(options.warmup, options.device)
    rows, mean_tokens = _rows(kind, options)
    how = {k: v for k, v in _how(kind, options).items() if k != "threads"}
    if name == "packing":  # packed sequences hold several rows, so that the steps of one pass are fewer
        how |= {"batch_size": PACKED_BATCH, "steps": int(len(rows) * mean_tokens / (1.1 * 1024 * PACKED_BATCH))}
    trainer = with_trl.make_trainer(kind, name, str(options.models / options.size), rows, **how)
    return clock.result(with_trl.train(trainer, clock), mean_tokens)


def _check(kind: str, options: argparse.Namespace) -> dict[str, float]:
    """Losses of one batch on both sides, in float32; for DPO with a reference that differs from the policy."""
    import numpy as np
    import torch
    import with_trl
    from with_mixalign import make_tasks

    from mixalign.data.batches.pack import pack
    from mixalign.frozen.score import score_rows
    from mixalign.models.forward import score_completions
    from mixalign.models.load import Pretrained
    from mixalign.types import on_device

    size, where = BATCH[kind], torch.device(options.device)
    path = str(options.models / options.size)
    other = save_model(options.size, options.models / "other", seed=1) if kind == "dpo" else None
    rows = make_rows(size, SIZES[options.size]["vocab_size"], seed=1)
    how = {"batch_size": size, "steps": 1, "device": options.device, "fp32": True}
    trainer = with_trl.make_trainer(kind, "default", path, rows, reference_path=other, **how)
    theirs = with_trl.one_batch_loss(trainer, size)
    (table,) = make_tasks(rows, 1, SIDES[kind], size)
    if other:
        scores = score_rows(Pretrained(other).build().to(where), table, {}, size, pack)
        table.attach("reference_logp", scores.align(table))
    batch = on_device(pack([table], np.zeros(size, int), np.arange(size)), where)
    with torch.no_grad():
        model = Pretrained(path).build().to(where)
        if kind == "dpo":
            ours = float(_objective(kind)(model, batch)["loss"].mean())
        else:  # TRL's mean over the tokens of a batch; mixalign's own is over rows, so that long ones do not count more
            ours = float(-score_completions(model, batch).logp_BS.sum() / batch["num_tokens_BS"].sum())
    if not abs(ours - theirs) < TOLERANCE:
        sys.exit(f"The losses differ: ours {ours:.6f}, TRL's {theirs:.6f}. The comparison would mean nothing.")
    return {"ours": ours, "trl": theirs, "difference": abs(ours - theirs)}

"""A training step of a model of 0.5 or 1.5 billion weights on a GPU: mixalign against TRL's default and best.

Shapes are those of Qwen2.5, weights are random; rows have the lengths of HH-RLHF: prompts of 130 tokens on average,
answers of 47. Variants: `ours`; `ours_apart`, which packs the prompt of a pair once for each answer; `trl_default`,
`trl_best` (no checkpointing, cached reference, batches of similar length), or `trl_best_checkpointed`. `profile` takes
three steps of ours apart: waits of the host for the device, and what the device is busy with.

`--size tiny` is for a CPU: it shows that everything runs.
"""

import argparse
import sys
from typing import Any

from common import (
    SIZES,
    StepClock,
    matmul_peak,
    parser,
    pick_device,
    print_table,
    require_trl,
    run_benchmark,
    spread,
    training_flops,
    write_json,
)
from hh_lengths import make_hh_rows

QWEN = {"vocab_size": 151936, "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 2048}
SIZES |= {
    "0.5b": QWEN | {"hidden_size": 896, "num_hidden_layers": 24, "intermediate_size": 4864, "num_attention_heads": 14},
    "1.5b": QWEN | {"hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960, "num_attention_heads": 12},
}
SIDES = {"dpo": ("chosen", "rejected"), "sft": ("chosen",)}
TASKS = 4
DENSE_BF16 = 989e12  # FLOP/s of an H100 or H200 by NVIDIA's datasheet
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
PROFILED = 3  # steps


def main() -> None:
    options = parser(__doc__, steps=12, repeats=3)
    options.add_argument("--kind", choices=tuple(SIDES), default="dpo")
    options.add_argument("--lora", action="store_true", help="an adapter of rank 16 on all linear layers")
    options.add_argument("--batch", type=int, default=32, help="rows of a step")
    options.add_argument("--variants", default="ours,trl_best,trl_default", help="with commas")
    for action in options._actions:
        if action.dest == "size":
            action.choices, action.default = ("tiny", "0.5b", "1.5b"), "0.5b"
    options = options.parse_args()
    names = options.variants.split(",")
    if any(name.startswith("trl") for name in names):
        require_trl()
    if options.short and not options.worker:
        options.repeats = 1
    once = ["peak", *(name for name in names if name == "profile")]
    variants: dict[str, dict[str, str]] = {name: {} for name in names if name not in once}
    found = run_benchmark(__file__, options, variants, _work, [options.size], once)
    if found is not None:
        _report(found, options)


def _report(found: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    peak = found.pop("peak")[0]["flops"]
    profile = found.pop("profile", [None])[0]
    rows = make_hh_rows(512, SIZES[options.size]["vocab_size"])
    needed = training_flops(options.size, rows, SIDES[options.kind]) * (2 / 3 if options.lora else 1)
    device = pick_device(options.device)
    top = DENSE_BF16 if device == "cuda" else peak
    rate, body = ("rows_per_s" if device == "cuda" else "rows_per_cpu_s"), []
    for variant, records in found.items():
        middle, least, most = spread(records, rate)
        tokens = middle * records[0]["mean_tokens"]
        step, memory = spread(records, "step_s")[0], spread(records, "peak_mib")[0]
        body.append([variant, middle, f"{least:.3g}-{most:.3g}", tokens, step, memory, f"{middle * needed / top:.1%}"])
        for record in records:
            record["flop_utilisation"] = record[rate] * needed / top
    print_table(["variant", "rows/s", "range", "tokens/s", "step s", "peak MiB", "of the peak"], body)
    ours = spread(found["ours"], rate)[0] if "ours" in found else None
    ratios = {f"vs_{v}": ours / spread(x, rate)[0] for v, x in found.items() if ours and v != "ours"}
    print("ratios: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    print(f"largest product: {peak / 1e12:.3g} TFLOP/s; FLOPs that a row needs: {needed:.3g}, the prompt counted once")
    if profile:
        print(f"waits of the host, a step: {profile['waits']}\n{profile['table']}")
    name = f"{options.kind}_{options.size}_{'lora' if options.lora else 'full'}"
    runs = [record for records in found.values() for record in records]
    further = {"batch": options.batch, "needed_flops_a_row": needed, "peak_flops": peak, "profile": profile}
    write_json(options.json, name, device, ratios, **further, runs=runs)


def _work(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(options.threads)
    options.device = pick_device(options.device)
    if options.short:
        options.steps, options.warmup = 3, 2
    if variant == "peak":
        return {"flops": matmul_peak("bf16", options.device)}
    if variant == "profile":
        options.steps = PROFILED
        return _ours(options, shared=True, profiled=True)
    if variant.startswith("ours"):
        return _ours(options, shared=variant == "ours")
    return _trl(variant.removeprefix("trl_"), options)


def _rows(options: argparse.Namespace) -> tuple[list, float]:
    """Rows of the whole run, and the mean tokens of one, the prompt once a completion."""
    rows = make_hh_rows((options.steps + options.warmup) * options.batch, SIZES[options.size]["vocab_size"])
    tokens = sum(len(row["prompt"]) + len(row[side]) for row in rows for side in SIDES[options.kind])
    return rows, tokens / len(rows)


def _how(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "batch_size": options.batch,
        "steps": options.steps + options.warmup,
        "device": options.device,
        "fp32": options.fp32,
    }


def _ours(options: argparse.Namespace, shared: bool, profiled: bool = False) -> dict[str, Any]:
    from with_mixalign import make_tasks, prepare, train

    from mixalign.models.load import LoRA
    from mixalign.objectives.dpo import DPO
    from mixalign.objectives.sft import SFT

    clock = StepClock(options.warmup, options.device)
    rows, mean_tokens = _rows(options)
    sides = SIDES[options.kind]
    setup = prepare(
        str(options.models / options.size),
        make_tasks(rows, TASKS, sides, options.batch),
        DPO() if options.kind == "dpo" else SFT(),
        **_how(options),
        threads=options.threads,
        lora=LoRA() if options.lora else None,
        layout=None if shared else _apart,
        compiled=options.device == "cuda",
    )
    if profiled:
        return _profiled(setup, clock, options.warmup)
    tokens, losses = train(setup, clock)
    return clock.result(tokens, mean_tokens) | {"last_loss": losses[-1], "mean_tokens": mean_tokens}


def _apart(datasets: Any, task_B: Any, row_B: Any, sides: Any = None) -> Any:
    """`pack` with the prompt of a pair once for each of its answers: 2 B rows of one answer, counted as B of two."""
    import numpy as np
    import torch

    from mixalign.data.batches.collate import score_columns
    from mixalign.data.batches.pack import pack
    from mixalign.data.dataset import TaskDataset

    lone = []
    for task, row in zip(task_B, row_B, strict=True):
        whole = datasets[task][int(row)]
        lone += [
            {**whole, "completions": [completion], "supervised": [mark]}
            for completion, mark in zip(whole["completions"], whole["supervised"], strict=True)
        ]
    table = TaskDataset.from_rows("apart", [{**row, "row_id": n} for n, row in enumerate(lone)], 1)
    batch: Any = pack([table], np.zeros(len(lone), int), np.arange(len(lone)))
    num = len(row_B)
    batch["num_tokens_BS"] = batch["num_tokens_BS"].view(num, -1)
    batch["task_B"] = torch.from_numpy(np.asarray(task_B, np.int64))
    batch["row_id_B"] = torch.tensor([int(datasets[t].row_id_N[int(r)]) for t, r in zip(task_B, row_B, strict=True)])
    return batch | score_columns(datasets, task_B, row_B, sides)


def _profiled(setup: Any, clock: StepClock, warmup: int) -> dict[str, Any]:
    """Waits of the host a step, and the operations that take longest."""
    from with_mixalign import profile_steps

    events = profile_steps(setup, clock, warmup, PROFILED)
    waits = sum(event.count for event in events if event.key in WAITS)
    order = "self_device_time_total" if any(e.self_device_time_total for e in events) else "self_cpu_time_total"
    return {"waits": waits / PROFILED, "table": events.table(sort_by=order, row_limit=15, max_name_column_width=60)}


def _trl(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    import with_trl

    further: dict[str, Any] = {}
    if options.lora:
        further["peft_config"] = with_trl.lora_config()
    if variant.endswith("_checkpointed"):
        variant, further["gradient_checkpointing"] = variant.removesuffix("_checkpointed"), True
    clock = StepClock(options.warmup, options.device)
    rows, mean_tokens = _rows(options)
    trainer = with_trl.make_trainer(
        options.kind, variant, str(options.models / options.size), rows, **_how(options), **further
    )
    return clock.result(with_trl.train(trainer, clock), mean_tokens) | {"mean_tokens": mean_tokens}


if __name__ == "__main__":
    sys.exit(main())

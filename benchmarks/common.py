"""What every benchmark shares: models, rows, isolated processes, step clocks, statistics, tables.

A benchmark measures variants. Each variant runs in a process of its own, which prints one JSON line, so that peak
memory, the allocator's state and compiled kernels belong to it alone. Variants are interleaved (A B C A B C ...), so
that a change in the machine's load meets all of them; CPU seconds stand beside wall seconds for the same reason.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from math import log
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

__all__ = [
    "ALLOCATOR",
    "EOS",
    "SIZES",
    "StepClock",
    "make_rows",
    "matmul_peak",
    "parser",
    "pick_device",
    "print_table",
    "require_trl",
    "run_benchmark",
    "save_model",
    "spread",
    "training_flops",
    "write_json",
]

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 176, "vocab_size": 1024},
    "h256": {"hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 704, "vocab_size": 8192},
    "h512": {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1408, "vocab_size": 32000},
}
HEADS, KEY_VALUE_HEADS = 8, 4  # where a size does not say it
PAD, BOS, EOS, UNKNOWN = range(4)
MIB = 2**20

ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_TOP_PAD_": str(2**26), "MALLOC_MMAP_MAX_": "0"}
"""What mixalign asks of glibc in its own process, for the other side: keep freed memory, no mmap for large blocks."""

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "PYTHONWARNINGS": "ignore",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}


# --- models and rows ----------------------------------------------------------------------------------------------


def save_model(size: str, folder: Path, seed: int = 0) -> str:
    """Writes a random Llama and a tokenizer with one token a word (`w4`, `w5`, ...) into a folder, and names it."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, logging

    logging.disable_progress_bar()
    shape = SIZES[size]
    usual = {
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
    }
    config = LlamaConfig(**usual | shape, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
    torch.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # large ones take minutes on a CPU
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    words = {"<pad>": PAD, "<s>": BOS, "</s>": EOS, "<unk>": UNKNOWN}
    words |= {f"w{i}": i for i in range(4, shape["vocab_size"])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return str(folder)


def make_rows(number: int, vocab_size: int, seed: int = 0, shorten: int = 1) -> list[dict[str, list[int]]]:
    """Pairs of completions as token ids: prompts of 30-200 tokens, completions of 20-300 that end with </s>.

    Lengths are log-normal, and those of a pair go together; tokens follow Zipf's law, so that the loss can fall.

    Args:
        shorten: divides all lengths, for overheads that only tiny steps show.
    """
    rng = np.random.default_rng(seed)
    prompt_N = np.clip(np.exp(rng.normal(log(80), 0.55, number)), 30, 200).astype(int) // shorten
    common_N = rng.normal(log(105), 0.55, number)
    chosen_N, rejected_N = (
        np.clip(np.exp(common_N + rng.normal(0, 0.35, number)), 20, 300).astype(int) // shorten for _ in range(2)
    )
    zipf_V = 1 / np.arange(1, vocab_size - 3)
    rows = []
    for lengths in zip(prompt_N, chosen_N - 1, rejected_N - 1, strict=True):
        ids = rng.choice(vocab_size - 4, sum(lengths), p=zipf_V / zipf_V.sum()) + 4
        prompt, chosen, rejected = (part.tolist() for part in np.split(ids, np.cumsum(lengths)[:2]))
        rows.append({"prompt": prompt, "chosen": [*chosen, EOS], "rejected": [*rejected, EOS]})
    return rows


def training_flops(size: str, rows: Sequence[dict[str, list[int]]], sides: Sequence[str]) -> float:
    """Floating-point operations that one training step needs for a row, on average over the rows.

    Every token counts once (the prompt of a pair, too), the LM head on completion tokens only, attention exactly
    causal, and backward twice the forward. Any other work is overhead, whoever does it.
    """
    shape = SIZES[size]
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    heads = shape.get("num_attention_heads", HEADS)
    key_value = hidden * shape.get("num_key_value_heads", KEY_VALUE_HEADS) // heads
    body = layers * 2 * (2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * shape["intermediate_size"])
    total = 0.0
    for row in rows:
        prompt, completions = len(row["prompt"]), [len(row[side]) for side in sides]
        looked_at = prompt**2 / 2 + sum(c * (prompt + c / 2) for c in completions)
        total += (prompt + sum(completions)) * body + sum(completions) * 2 * hidden * shape["vocab_size"]
        total += layers * 4 * hidden * looked_at
    return 3 * total / len(rows)


# --- measuring in one process -------------------------------------------------------------------------------------


class StepClock:
    """Notes the end of every step and says how fast the steps after the warm-up were.

    Args:
        warmup: steps that are not counted.
        device: `cuda` waits for the device at every tick.
    """

    def __init__(self, warmup: int, device: str = "cpu") -> None:
        self.warmup, self.device = warmup, device
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.others: list[float] = []
        self.began = time.perf_counter()

    def tick(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())
        self.others.append(_busy_seconds())

    def result(self, tokens: Sequence[int], tokens_per_row: float) -> dict[str, float]:
        """Speed and memory of this process.

        Rows are counted by tokens (those of the measured steps over the mean of a row), because batches grouped by
        length differ in size, and the longest come first.

        Args:
            tokens: real tokens of each step's batch, from the first step on.
        """
        wall, cpu = np.diff(self.wall)[self.warmup - 1 :], np.diff(self.cpu)[self.warmup - 1 :]
        rows = sum(tokens[self.warmup : self.warmup + len(wall)]) / tokens_per_row
        busy = self.others[-1] - self.others[self.warmup - 1]
        return {
            "steps": len(wall),
            "step_s": float(np.median(wall)),
            "step_cpu_s": float(np.median(cpu)),
            "rows_per_s": rows / float(wall.sum()),
            "rows_per_cpu_s": rows / float(cpu.sum()),
            "setup_s": self.wall[0] - self.began,
            "other_load": max(0.0, busy - float(cpu.sum())) / float(wall.sum()),
            **peak_memory(self.device),
        }


def peak_memory(device: str) -> dict[str, float]:
    """Peak resident memory of this process and, with a GPU, peak memory on it, MiB."""
    found = {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if device == "cuda":
        import torch

        found |= {"host_peak_mib": found["peak_mib"], "peak_mib": torch.cuda.max_memory_allocated() / MIB}
    return found


def _busy_seconds() -> float:
    """CPU seconds that all processes of this machine have used, over its cores (Linux; 0 elsewhere)."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0.0
    ticks = [int(x) for x in stat.read_text().split("\n", 1)[0].split()[1:]]
    return (sum(ticks[:8]) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def matmul_peak(precision: str, device: str, seconds: float = 1.0) -> float:
    """Fastest matrix product that this process can make, FLOP/s."""
    import torch

    size = 8192 if device == "cuda" else 2048
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        a @ b.t()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


# --- variants in processes of their own ---------------------------------------------------------------------------


def parser(description: str | None, steps: int = 20, repeats: int = 3) -> argparse.ArgumentParser:
    """Options that all benchmarks have; `--worker` and `--models` are how they call themselves."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--size", choices=("tiny", "h256", "h512"), default="h256", help="hidden size of the model")
    made.add_argument("--fp32", action="store_true", help="float32 on both sides; default: bfloat16 autocast")
    made.add_argument("--steps", type=int, default=steps, help="measured steps of each run")
    made.add_argument("--warmup", type=int, default=4, help="steps before them, at least 1")
    made.add_argument("--repeats", type=int, default=repeats, help="interleaved runs of each variant")
    made.add_argument("--threads", type=int, default=1, help="CPU threads of each run")
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    made.add_argument("--short", action="store_true", help="few steps, one run each: does it work, roughly how fast")
    made.add_argument("--json", type=Path, help="writes the figures here")
    made.add_argument("--worker", help=argparse.SUPPRESS)
    made.add_argument("--models", type=Path, help=argparse.SUPPRESS)
    return made


def pick_device(wanted: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def require_trl() -> None:
    """Ends the program with the command that installs TRL when it is missing."""
    if find_spec("trl") is None:
        raise SystemExit("This benchmark compares with TRL, which is not installed: pip install 'trl==1.16.0'")


Environment = dict[str, str]


def run_benchmark(
    script: str,
    options: argparse.Namespace,
    variants: dict[str, Environment],
    work: Callable[[str, argparse.Namespace], dict[str, Any]],
    sizes: Sequence[str] = (),
    checks: Sequence[str] = (),
    pythons: dict[str, str] | None = None,
) -> dict[str, list[dict[str, Any]]] | None:
    """Runs every variant in its own processes and returns their records by variant; None in such a process.

    Args:
        variants: names and their further environment variables.
        work: measures one variant in this process.
        sizes: models that are made beforehand, as folders of `options.models`.
        checks: variants that run once, before the others.
        pythons: interpreters of variants that need an environment of their own.
    """
    if options.worker:
        _silence()
        print(json.dumps({"variant": options.worker} | work(options.worker, options)))
        return None
    with tempfile.TemporaryDirectory(prefix="mixalign-bench-") as folder:
        for size in sizes:
            save_model(size, Path(folder) / size)
        found: dict[str, list[dict[str, Any]]] = {}
        plan = list(checks) + [v for _ in range(options.repeats) for v in variants]
        for number, variant in enumerate(plan, 1):
            print(f"[{number}/{len(plan)}] {variant}", file=sys.stderr, flush=True)
            command = [(pythons or {}).get(variant, sys.executable), script]
            record = _run_process(command, variant, options, Path(folder), variants.get(variant, {}))
            found.setdefault(variant, []).append(record)
    return found


def _run_process(command: list[str], variant: str, options: argparse.Namespace, models: Path, env: Environment) -> dict:
    settings = os.environ | QUIET | {"OMP_NUM_THREADS": str(options.threads)} | env
    settings |= {"HF_DATASETS_CACHE": str(models / "datasets"), "HF_HOME": str(models / "hf")}
    command = [*command, *sys.argv[1:], "--worker", variant, "--models", str(models)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{variant} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _silence() -> None:
    """Keeps notices of libraries out of the one line that a worker prints."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if find_spec("transformers"):
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()


# --- results ------------------------------------------------------------------------------------------------------


def spread(records: Sequence[dict[str, Any]], key: str) -> tuple[float, float, float]:
    """Median, least and greatest of one figure over repeats."""
    values = [record[key] for record in records]
    return median(values), min(values), max(values)


def machine(device: str) -> dict[str, Any]:
    """The hardware and libraries of the measurement."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor())
    flags = next((x for x in lines if x.startswith("flags")), "")
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "avx512": "avx512f" in flags,
        "amx_bf16": "amx_bf16" in flags,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def print_table(head: Sequence[str], body: Sequence[Sequence[Any]]) -> None:
    """Prints aligned columns."""
    text = [[_cell(x) for x in line] for line in [head, *body]]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    for first, *rest in text:
        padded = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *padded]))


def _cell(x: Any) -> str:
    if not isinstance(x, float):
        return str(x)
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"


def write_json(path: Path | None, name: str, device: str, ratios: dict[str, float], **more: Any) -> None:
    """Writes the figures with a description of the machine, when a file is asked for."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = {"name": name, "device": device, "ratios": ratios, **more, "machine": machine(device)}
    path.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"figures: {path}")

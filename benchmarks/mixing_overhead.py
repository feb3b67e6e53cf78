"""What the mixture and Lightning cost: 64 tasks, AMA-S and AMA-R, with every per-task number logged.

`mixing_share`: draws, measurements, updates and log lines, timed by the calls inside a run, over the step's time (the
larger of the two mixers). `lightning_share`: what a Lightning step takes beyond a raw loop over the same batches and
beyond the mixture, over the same step's time. Its milliseconds are measured with a tiny model, where they stand out of
the noise; they do not depend on the model's size.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    SIZES,
    StepClock,
    make_rows,
    parser,
    pick_device,
    print_table,
    run_benchmark,
    spread,
    write_json,
)

TASKS = 64
BATCH = {"ama_s": 8, "ama_r": 64}  # AMA-R wants every task in every batch
SIDES = ("chosen", "rejected")
TINY = 8  # how much shorter the rows of the tiny model are


def main() -> None:
    options = parser(__doc__).parse_args()
    if options.short and not options.worker:
        options.repeats = 1
    variants: dict[str, dict[str, str]] = {"ama_s": {}, "ama_r": {}, "tiny_ama_s": {}}
    found = run_benchmark(__file__, options, variants, _work, ["tiny", options.size])
    if found is not None:
        _report(found, options)


def _report(found: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    keys = ("step_ms", "draw_ms", "measure_and_update_ms", "log_ms", "raw_ms", "lightning_ms")
    print_table(
        ["run", *(key.replace("_", " ") for key in keys), "mixing share"],
        [
            [name, *(spread(records, key)[0] for key in keys), f"{spread(records, 'mixing_share')[0]:.2%}"]
            for name, records in found.items()
        ],
    )
    extra = spread(found["tiny_ama_s"], "lightning_ms")[0]
    ratios = {
        "mixing_share": max(spread(found[name], "mixing_share")[0] for name in BATCH),
        "lightning_share": max(0.0, extra) / spread(found["ama_s"], "step_ms")[0],
    }
    print(f"mixing {ratios['mixing_share']:.2%} and Lightning {ratios['lightning_share']:.2%} of a step")
    runs = [record for records in found.values() for record in records]
    write_json(options.json, "mixing_overhead", pick_device(options.device), ratios, runs=runs)


class _Timed:
    """Keeps the seconds of every call of some functions, while it is active."""

    def __init__(self, device: str) -> None:
        self.device, self.active = device, False
        self.seconds: dict[str, list[float]] = {}

    def wrap(self, owner: Any, method: str, name: str) -> None:
        call: Callable = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.device == "cuda":
                import torch

                torch.cuda.synchronize()  # else the first wait for the device would be counted here
            start = time.perf_counter()
            out = call(*args, **kwargs)
            if self.active:
                self.seconds.setdefault(name, []).append(time.perf_counter() - start)
            return out

        setattr(owner, method, timed)

    def ms_a_step(self, name: str, steps: int) -> float:
        """Mean over steps: most of them write no log."""
        return 1e3 * sum(self.seconds.get(name, [0.0])) / steps


def _work(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from with_mixalign import make_tasks, prepare, trainer_for

    from mixalign.mixers.ama_r import AMAR
    from mixalign.mixers.ama_s import AMAS
    from mixalign.objectives.dpo import DPO
    from mixalign.training.callbacks.task_log import TaskLog
    from mixalign.training.fit import fit

    tiny, name = variant.startswith("tiny_"), variant.removeprefix("tiny_")
    size, device = ("tiny" if tiny else options.size), pick_device(options.device)
    steps = (5 if options.short else options.steps) * (20 if tiny else 1)
    warmup, mixer = options.warmup, AMAS() if name == "ama_s" else AMAR()
    torch.set_num_threads(options.threads)
    rows = make_rows(TASKS * 4, SIZES[size]["vocab_size"], shorten=TINY if tiny else 1)
    tables = make_tasks(rows, TASKS, SIDES, TASKS)
    for table in tables:  # specialists a little better than the start, so that excess is not clipped away
        table.attach("specialist_loss", np.full(len(table), 0.6, np.float32))
    how: dict[str, Any] = {"mixer": mixer, "batch_size": BATCH[name], "steps": steps + warmup, "device": device}
    how |= {"fp32": options.fp32 or tiny, "threads": options.threads}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        setup = prepare(str(options.models / size), tables, DPO(), history=root / "mix.jsonl", **how)
        log = TaskLog(setup.mixing, every=1 if options.short else 10)
        timed, clock = _Timed(device), StepClock(1, device)
        kept: list[Any] = []
        timed.wrap(setup.data.sampler, "draw", "draw")
        timed.wrap(setup.mixing, "on_before_backward", "measure")
        timed.wrap(setup.mixing, "on_train_batch_end", "measure")
        timed.wrap(log, "on_train_batch_end", "log")
        trainer = trainer_for(setup, root, [_recorder(clock, timed, kept, warmup)], log)
        fit(trainer, setup.module, setup.data)
    raw = _raw_loop(setup, kept, device, options.fp32 or tiny)
    return _shares(clock, timed, raw, warmup, steps)


def _recorder(clock: StepClock, timed: _Timed, kept: list[Any], warmup: int) -> Any:
    import lightning as L

    class Recorder(L.Callback):
        """Keeps the samples of every batch, and starts the timing after the warm-up."""

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            kept.append((batch["task_B"].cpu().numpy(), batch["row_id_B"].cpu().numpy()))
            timed.active = len(kept) >= warmup
            clock.tick()

    return Recorder()


def _shares(clock: StepClock, timed: _Timed, raw: list[float], warmup: int, steps: int) -> dict[str, Any]:
    step_ms = 1e3 * np.diff(clock.wall)[warmup - 1 :]
    draw, measure, log = (timed.ms_a_step(name, steps) for name in ("draw", "measure", "log"))
    mixing = draw + measure + log
    raw_ms = 1e3 * np.array(raw)[warmup:]
    beyond = 1e3 * np.diff(clock.cpu)[warmup - 1 :] - raw_ms if clock.device == "cpu" else step_ms - raw_ms
    return {
        "step_ms": float(np.median(step_ms)),
        "draw_ms": draw,
        "measure_and_update_ms": measure,
        "log_ms": log,
        "raw_ms": float(np.median(raw_ms)),
        "lightning_ms": float(np.median(beyond)) - mixing,
        "mixing_share": mixing / float(step_ms.mean()),
    }


def _raw_loop(setup: Any, kept: list[Any], device: str, fp32: bool) -> list[float]:
    """Seconds of every step (of the CPU on a CPU) of a bare loop over the same batches, with the same optimizer."""
    import torch

    from mixalign.types import on_device

    clock_now = time.process_time if device == "cpu" else time.perf_counter
    module, data = setup.module.to(device), setup.data
    optimizer = torch.optim.AdamW(module.parameters(), 1e-4, weight_decay=0.0, fused=True)
    row_of = [{int(r): n for n, r in enumerate(table.row_id_N)} for table in data.train]
    seconds = []
    for task_B, row_id_B in kept:
        row_B = np.array([row_of[t][int(r)] for t, r in zip(task_B, row_id_B, strict=True)])
        start = clock_now()
        batch = on_device(data.layout(data.train, task_B, row_B), torch.device(device))
        with torch.autocast(device, torch.bfloat16, enabled=not fp32):
            loss_B = module.objective(module.model, batch)["loss"]
        excess_B = (loss_B - batch["specialist_loss_B"]).clamp_min(0)
        excess_B.mean().backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock_now() - start)
    return seconds


if __name__ == "__main__":
    main()

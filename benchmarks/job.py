"""The whole job, from the command to the finished run: wall and CPU seconds by stage, mixalign against a TRL script.

Both train by DPO on the same five tasks of text rows, evenly mixed, for as many steps of as many rows; score all rows
with the reference policy beforehand; validate on the same rows half-way, at the last step and at the end; write a
checkpoint at each validation of the training, and the model. No side has specialists. TRL groups rows by length and
does without gradient checkpointing. Every run has a cold cache and one thread; `plan` is the command of its name on the
same rows, with a cold cache and with what it left, beside `mixalign --help`.

Stages follow the clock of the process: what runs until the first row is read is start-up (imports, configuration,
checks, model of the TRL script), and what comes between two of the others belongs to the one before. Seconds after
the last line of the program, until the process is gone, are its end.

Rows are short (`--shorten`), so that a small model is what its steps are: the stages around them count for more than
they would on a large one.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from common import ALLOCATOR, SIZES, make_rows, parser, print_table, require_trl, run_benchmark, spread, write_json

STAGES = ("start-up", "tokenisation", "reference", "training", "checkpoints", "validation", "export", "end")
VARIANTS: dict[str, dict[str, str]] = {"ours": {}, "trl": ALLOCATOR, "plan": {}}
COMMANDS = ("plan, cold", "plan, warm", "--help")
TASKS, BATCH, READ = 5, 20, 32  # READ: rows of a forward pass that only reads
FEW = 0.1  # seconds; a stage that takes less has no ratio
LEARNING_RATE, BETA, MAX_LENGTH = 1e-4, 0.1, 1024


def main() -> None:
    made = parser(__doc__, steps=100)
    made.set_defaults(size="tiny")
    made.add_argument("--rows", type=int, default=2000, help="of each task; a tenth as many validate")
    made.add_argument("--shorten", type=int, default=4, help="divides the lengths of rows")
    made.add_argument("--program", choices=("ours", "trl"), help=argparse.SUPPRESS)
    options = made.parse_args()
    require_trl()
    options.fp32 |= options.size == "tiny"  # as mixalign chooses by itself
    if options.short:
        options.rows, options.steps, options.repeats = 200, 10, 1
    if options.program:
        _run_program(options)
        return
    found = run_benchmark(__file__, options, VARIANTS, _work, sizes=(options.size,), checks=("rows",))
    if found is not None:
        _conclude(options, found)


def _conclude(options: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> None:
    """Prints stages and commands, and writes the figures."""
    middle = {name: {k: spread(found[name], k)[0] for k in found[name][0] if k != "variant"} for name in VARIANTS}
    ours, trl, plan = (middle[name] for name in VARIANTS)
    head = ["stage", "ours s", "CPU-s", "share", "TRL s", "CPU-s", "TRL / ours", "of CPU-s"]
    print_table(head, [_line(ours, trl, stage) for stage in (*STAGES, "total")])
    print_table(["mixalign", "s", "CPU-s"], [[name, plan[name], plan[f"{name} cpu"]] for name in COMMANDS])
    size = f"{TASKS} x {options.rows:,} rows, {options.steps} steps of {BATCH} rows, {options.size}"
    print(f"{size}; medians of {options.repeats}; shares are of CPU-seconds")
    ratios = {f"trl_{key}": trl[key] / ours[key] for key in ours if ours[key] > FEW}
    write_json(options.json, "job", "cpu", ratios, job=size, medians=middle, runs=found)


def _line(ours: dict[str, float], trl: dict[str, float], stage: str) -> list[Any]:
    cpu = f"{stage} cpu"
    ratios = [trl[key] / ours[key] if ours[key] > FEW else "-" for key in (stage, cpu)]
    return [stage, ours[stage], ours[cpu], f"{ours[cpu] / ours['total cpu']:.0%}", trl[stage], trl[cpu], *ratios]


# --- one run, in a process of its own -----------------------------------------------------------------------------


def _work(variant: str, options: argparse.Namespace) -> dict[str, Any]:
    if variant == "rows":
        return {"tokens": _write_rows(options)}
    with tempfile.TemporaryDirectory(dir=options.models) as folder:
        if variant == "plan":
            return _commands(options, Path(folder))
        command = [sys.executable, __file__, *sys.argv[1:], "--program", variant]
        return _timed(command, Path(folder))


def _write_rows(options: argparse.Namespace) -> int:
    """Tasks as folders of JSONL, and how many tokens they have."""
    held = options.rows // 10
    rows = make_rows(TASKS * (options.rows + held), SIZES[options.size]["vocab_size"], shorten=options.shorten)
    texts = iter([{side: _text(ids) for side, ids in row.items()} for row in rows])
    for task in range(TASKS):
        folder = options.models / "rows" / f"task{task}"
        folder.mkdir(parents=True)
        for split, number in (("train", options.rows), ("validation", held)):
            lines = (json.dumps(next(texts)) + "\n" for _ in range(number))
            (folder / f"{split}.jsonl").write_text("".join(lines))
    return sum(len(ids) for row in rows for ids in row.values())


def _text(ids: list[int]) -> str:
    """One word a token; the end of an answer is the trainers' to add."""
    return "".join(f" w{i}" for i in ids if i > 3)


def _timed(command: list[str], folder: Path) -> dict[str, Any]:
    """Seconds of a program by the clock and of its CPUs, by stage where it tells them."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    settings = os.environ | {"JOB_BEGAN": str(began), "HF_DATASETS_CACHE": str(folder / "datasets")}
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
    ended, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    record: dict[str, Any] = {"total": ended - began, "total cpu": cpu}
    told = folder / "stages.json"
    if told.is_file():
        record |= json.loads(told.read_text())
        record["end"] = record["total"] - sum(record[stage] for stage in STAGES[:-1])
        record["end cpu"] = cpu - sum(record[f"{stage} cpu"] for stage in STAGES[:-1])
    return record


def _commands(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """`mixalign plan` with a cold and a warm cache, and `mixalign --help`."""
    ours = [sys.executable, "-m", "mixalign"]
    plan = [*ours, "plan", "--rows=0", *_keys(options)]
    found = {}
    for name, command in zip(COMMANDS, (plan, plan, [*ours, "--help"]), strict=True):
        record = _timed(command, folder)
        found |= {name: record["total"], f"{name} cpu": record["total cpu"]}
    return found


# --- the programs, with their clock -------------------------------------------------------------------------------


class Stages:
    """Gives the seconds of this process to the stage that it is at, from the command on."""

    def __init__(self) -> None:
        self.at = STAGES[0]
        self.seconds: dict[str, float] = defaultdict(float)
        self._since, self._cpu = float(os.environ["JOB_BEGAN"]), 0.0

    def enter(self, stage: str) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        self.seconds[self.at] += now - self._since
        self.seconds[f"{self.at} cpu"] += cpu - self._cpu
        self.at, self._since, self._cpu = stage, now, cpu

    @contextmanager
    def within(self, stage: str) -> Iterator[None]:
        before = self.at
        self.enter(stage)
        try:
            yield
        finally:
            self.enter(before)

    def wrap(self, owner: Any, name: str, stage: str, then: str | None = None) -> None:
        """A function of a module or class is a stage; behind it the one before goes on, or another."""
        call: Callable[..., Any] = getattr(owner, name)

        @wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.within(stage):
                made = call(*args, **kwargs)
            if then:
                self.enter(then)
            return made

        setattr(owner, name, timed)

    def write(self, path: Path) -> None:
        self.enter(STAGES[-1])
        names = [name for stage in STAGES for name in (stage, f"{stage} cpu")]
        path.write_text(json.dumps({name: self.seconds[name] for name in names}))


def _run_program(options: argparse.Namespace) -> None:
    stages = Stages()
    (_ours if options.program == "ours" else _trl)(options, stages)
    stages.write(Path("stages.json"))


def _keys(options: argparse.Namespace) -> list[str]:
    """The job as configuration keys."""
    return [
        "data=local",
        f"data.root={options.models / 'rows'}",
        f"data.max_length={MAX_LENGTH}",
        "data.workers=1",
        "model=pretrained",
        f"model.path={options.models / options.size}",
        "mixer=uniform",
        "objective=dpo",
        f"objective.beta={BETA}",
        f"optimizer.lr={LEARNING_RATE}",
        "optimizer.warmup_steps=0",
        f"steps={options.steps}",
        f"batch_size={BATCH}",
        f"micro_batch_size={BATCH}",
        f"eval_batch_size={READ}",
        f"val_every={options.steps // 2}",
        "eval_rows=null",
        "export=last",
        f"trainer.precision={'32-true' if options.fp32 else 'bf16-mixed'}",
        "trainer.accelerator=cpu",
        "progress=false",
        "cache_dir=cache",
    ]


def _ours(options: argparse.Namespace, stages: Stages) -> None:
    """The command line as it is, with a clock around the functions that the verb calls."""
    from mixalign import cli

    load = cli.import_module

    def watched(name: str) -> Any:
        verb = load(name)
        from lightning.pytorch import Trainer
        from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop

        from mixalign.jobs import job
        from mixalign.runs import train_one

        stages.wrap(job, "read_task", "tokenisation", then="tokenisation")
        stages.wrap(verb, "prepare", "start-up", then="start-up")  # checks come behind
        stages.wrap(verb, "reference_policy", "reference", then="reference")
        stages.wrap(verb, "_train", "training", then="export")  # the card, and what is printed
        stages.wrap(train_one, "save_model", "export", then="export")
        stages.wrap(Trainer, "save_checkpoint", "checkpoints")
        stages.wrap(_EvaluationLoop, "run", "validation")
        return verb

    cli.import_module = watched
    sys.argv[1:] = ["train", "run_dir=run", *_keys(options)]
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            raise


def _trl(options: argparse.Namespace, stages: Stages) -> None:
    """What one would write with TRL."""
    import torch
    from datasets import concatenate_datasets, load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    stages.wrap(DPOTrainer, "_prepare_dataset", "tokenisation")
    stages.wrap(DPOTrainer, "_precompute_ref_logps", "reference")
    stages.wrap(DPOTrainer, "_save_checkpoint", "checkpoints")
    stages.wrap(DPOTrainer, "evaluate", "validation")
    files = {split: [str(options.models / "rows" / f"task{task}" / f"{split}.jsonl") for task in range(TASKS)]
             for split in ("train", "validation")}  # fmt: skip
    path = str(options.models / options.size)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        AutoTokenizer.from_pretrained(path),
    )
    with stages.within("tokenisation"):
        parts = {split: [load_dataset("json", data_files=name, split="train") for name in names]
                 for split, names in files.items()}  # fmt: skip
        data = {split: concatenate_datasets(tables) for split, tables in parts.items()}
        for split, rows in data.items():
            lengths = [sum(text.count(" ") for text in row.values()) for row in rows]
            data[split] = rows.add_column("length", lengths)
    half = options.steps // 2
    settings: dict[str, Any] = {"max_steps": options.steps, "beta": BETA, "learning_rate": LEARNING_RATE}
    settings |= {"lr_scheduler_type": "constant", "max_length": MAX_LENGTH, "bf16": not options.fp32, "use_cpu": True}
    settings |= {"per_device_train_batch_size": BATCH, "per_device_eval_batch_size": READ}
    settings |= {"precompute_ref_log_probs": True, "precompute_ref_batch_size": READ, "gradient_checkpointing": False}
    settings |= {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
    settings |= {"eval_strategy": "steps", "eval_steps": half, "save_strategy": "steps", "save_steps": half}
    settings |= {"save_total_limit": 2, "report_to": "none", "disable_tqdm": True, "output_dir": "run"}
    trainer = DPOTrainer(model=model, args=DPOConfig(**settings), train_dataset=data["train"],
                         eval_dataset=data["validation"], processing_class=tokenizer)  # fmt: skip
    with stages.within("training"):
        trainer.train()
    trainer.evaluate()
    with stages.within("export"):
        trainer.save_model("run/model")


if __name__ == "__main__":
    main()

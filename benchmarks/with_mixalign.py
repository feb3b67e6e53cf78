"""The mixalign side of the comparisons: a training through mixalign's own trainer, data module and callbacks."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from common import StepClock
from lightning.pytorch.loggers import CSVLogger

from mixalign.data.batches.collate import Layout
from mixalign.data.batches.module import MixtureData
from mixalign.data.batches.sampler import MixtureSampler
from mixalign.data.dataset import TaskDataset
from mixalign.frozen.score import score_rows
from mixalign.mixers.base import Mixer
from mixalign.mixers.fixed import Temperature
from mixalign.models.load import LoRA, Pretrained, add_lora
from mixalign.objectives.base import Objective
from mixalign.training.callbacks.mixing import Mixing
from mixalign.training.callbacks.specialist_check import SpecialistCheck
from mixalign.training.callbacks.task_log import TaskLog
from mixalign.training.engine import Engine, choose_layout, prepare_model, prepare_process
from mixalign.training.fit import Fit, fit, make_trainer
from mixalign.training.module import AlignModule
from mixalign.training.optimizer import Optimizer

__all__ = [
    "LEARNING_RATE",
    "Setup",
    "lightning_precision",
    "make_tasks",
    "prepare",
    "profile_steps",
    "train",
    "trainer_for",
]

LEARNING_RATE = 1e-4
UNIFORM = Temperature(float("inf"))


def make_tasks(
    rows: Sequence[dict[str, list[int]]], num_tasks: int, sides: Sequence[str], batch_size: int
) -> list[TaskDataset]:
    """Tables of equal size, such that one pass of a stratified uniform mixture sees every row once.

    Batch i holds rows i * batch_size and on, as the plain order of the other side does, up to the order within tasks.
    """
    tables = []
    for task in range(num_tasks):
        mine = range(task, len(rows), num_tasks)
        tables.append(TaskDataset.from_rows(f"task{task}", [_token_row(n, rows[n], sides) for n in mine], len(sides)))
    assert batch_size % num_tasks == 0
    return tables


def _token_row(number: int, row: dict[str, list[int]], sides: Sequence[str]) -> Any:
    completions = [np.array(row[side], np.int32) for side in sides]
    marks = [np.ones(len(c), bool) for c in completions]
    return {
        "row_id": number,
        "prompt": np.array(row["prompt"], np.int32),
        "completions": completions,
        "supervised": marks,
    }


def lightning_precision(fp32: bool) -> str:
    return "32-true" if fp32 else "bf16-mixed"


@dataclass
class Setup:
    """A model that is ready to be trained, and its data.

    Attributes:
        module: the LightningModule.
        data: batches of the run.
        mixing: the callback that runs the mixer.
        options: further arguments of Lightning's Trainer.
    """

    module: AlignModule
    data: MixtureData
    mixing: Mixing
    options: dict[str, Any]


def prepare(
    model_path: str,
    tables: list[TaskDataset],
    objective: Objective,
    *,
    batch_size: int,
    steps: int,
    device: str,
    fp32: bool,
    threads: int,
    mixer: Mixer = UNIFORM,
    compiled: bool = True,
    history: Path | None = None,
    lora: LoRA | None = None,
    layout: Layout | None = None,
) -> Setup:
    """Loads and scores as `mixalign train` does: packed batches, cached reference, compiled layers, allocator hints."""
    engine = Engine(layout="packed", compile=compiled, threads=threads)
    prepare_process(engine)
    model = Pretrained(model_path).build().to(device)
    layout = layout or choose_layout(engine, model, tables)
    precision = lightning_precision(fp32)
    if objective.uses_reference:
        for table in tables:
            scores = score_rows(model, table, {}, 16, layout, precision)
            table.attach("reference_logp", scores.align(table))
    model = add_lora(model, lora).to(device)
    prepare_model(model, engine, float("inf"))
    tasks = [table.task for table in tables]
    rows_K = [len(table) for table in tables]
    optimizer = Optimizer(LEARNING_RATE, warmup_steps=0)
    module = AlignModule(
        model, objective.for_tasks([{}] * len(tasks)), tasks, optimizer, descends_on=mixer.descends_on, clip=mixer.clip
    )
    sampler = MixtureSampler(rows_K, batch_size, mixer.composition)
    options = {
        "precision": precision,
        "accelerator": "gpu" if device == "cuda" else "cpu",
        "enable_progress_bar": False,
        "limit_val_batches": 0,
    }
    data = MixtureData(tables, [], sampler, steps, layout=layout)
    return Setup(module, data, Mixing(mixer, tasks, rows_K, history), options)


def trainer_for(setup: Setup, root: Path, further: Sequence[L.Callback] = (), log: TaskLog | None = None) -> L.Trainer:
    """Lightning's Trainer with the callbacks and the logger of a run."""
    how = Fit(setup.data.steps, setup.data.sampler.batch_size, trainer=setup.options)
    callbacks = [setup.mixing, SpecialistCheck(), log or TaskLog(setup.mixing), *further]
    return make_trainer(how, root, callbacks, [CSVLogger(str(root))])


class _Ticks(L.Callback):
    """Reads the clock after every step and counts the tokens of its batch, the prompt once a completion."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock
        self.tokens: list[int] = []
        self.losses: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        segments = batch["segments"]
        self.tokens.append(sum(s.length + s.prefix_length for s in segments))
        self.losses.append(outputs["loss_B"].mean())
        self.clock.tick()


def train(setup: Setup, clock: StepClock) -> tuple[list[int], list[float]]:
    """Trains, and returns the tokens and the mean loss of every step."""
    ticks = _Ticks(clock)
    with tempfile.TemporaryDirectory() as root:
        if setup.mixing.history.path is None:
            setup.mixing.history.path = Path(root) / "mix.jsonl"
        trainer = trainer_for(setup, Path(root), [ticks])
        fit(trainer, setup.module, setup.data)
    return ticks.tokens, [float(x) for x in ticks.losses]


def profile_steps(setup: Setup, clock: StepClock, warmup: int, steps: int) -> Any:
    """Trains, and returns what torch's profiler saw of the steps after the warm-up, by operation."""
    from torch.profiler import ProfilerActivity, profile

    seen = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
    tick, done = clock.tick, 0

    def ticked() -> None:  # without the clock's own wait for the device
        nonlocal done
        done += 1
        if done == warmup:
            tick()
            seen.start()
        elif done == warmup + steps:
            seen.stop()

    clock.tick = ticked  # type: ignore[method-assign]
    train(setup, clock)
    return seen.key_averages()

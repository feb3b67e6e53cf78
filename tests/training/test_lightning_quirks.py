"""What plain Lightning does where `lightning_quirks` steps in: a test that fails says that a quirk may go."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.fabric.utilities import cloud_io
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import nn

from mixalign.training.lightning_quirks import (
    CountSteps,
    StayStopped,
    ValidateAtTheEnd,
    compare_after_validation,
    gradient_scaler,
    set_intervals,
    validation_follows,
)
from mixalign.training.sharding import FullySharded

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable.*"),
    pytest.mark.filterwarnings("ignore:.*Please add the following callbacks.*"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*"),
]


class Batches:
    """Batches of one row, which know their place, as mixalign's loaders do."""

    def __init__(self, count: int) -> None:
        self.count, self.drawn = count, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        while self.drawn < self.count:
            self.drawn += 1
            yield torch.ones(1, 2)

    def state_dict(self) -> dict:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict) -> None:
        self.drawn = state["drawn"]


class Rows:
    """The same rows whenever they are read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        return (torch.ones(1, 2) for _ in range(self.count))


class Plain(L.LightningModule):
    """One linear layer; counts its validations, and watches a number that never falls."""

    def __init__(self, fused: bool = False) -> None:
        super().__init__()
        self.layer, self.fused = nn.Linear(2, 1), fused
        self.validated: list[int] = []  # the step of each validation batch
        self.modes: list[bool] = []

    def training_step(self, batch, batch_idx):
        self.modes.append(self.layer.training)
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx) -> None:
        self.validated.append(self.trainer.global_step)
        self.log("worst", 1.0)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3, fused=self.fused)


def trainer_of(folder: Path, *callbacks: Callback, steps: int = 6, **options) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    checkpoints = any(isinstance(callback, Checkpoint) for callback in callbacks)
    return L.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=1, default_root_dir=folder, callbacks=[*callbacks],
        enable_checkpointing=checkpoints, **quiet | options,
    )  # fmt: skip


def train(trainer: L.Trainer, batches: int = 6, resume: Path | None = None, module: Plain | None = None) -> Plain:
    module = module or Plain()
    trainer.fit(module, Batches(batches), Rows(2), ckpt_path=resume, weights_only=None if resume is None else True)
    return module


class Save(Checkpoint):
    """Saves in one hook, at one step."""

    def __init__(self, path: Path, hook: str, step: int) -> None:
        def save(trainer, *_) -> None:
            if trainer.global_step == step:
                trainer.save_checkpoint(path)

        setattr(self, hook, save)


def test_the_last_step_is_not_validated(tmp_path):
    assert sorted({*train(trainer_of(tmp_path, val_check_interval=4)).validated}) == [4]
    ours = train(trainer_of(tmp_path, ValidateAtTheEnd(), val_check_interval=4))
    assert sorted({*ours.validated}) == [4, 6]


def test_intervals_count_the_batches_of_one_process(tmp_path):
    """With three a step, 2 is not a validation every 2 steps, and what it should be is known to a built Trainer."""
    plain = train(trainer_of(tmp_path, val_check_interval=2, accumulate_grad_batches=3, steps=4), 12)
    assert sorted({*plain.validated}) != [2, 4]
    trainer = trainer_of(tmp_path, steps=4)
    set_intervals(trainer, 3, 2, 4)
    assert sorted({*train(trainer, 12).validated}) == [2, 4]
    too_long = trainer_of(tmp_path, val_check_interval=7)
    with pytest.raises(ValueError, match="must be less than or equal"):
        train(too_long)
    set_intervals(too_long, 1, 7, 6)
    assert sorted({*train(too_long).validated}) == [6]


def test_a_training_does_not_go_on_with_other_micro_batches(tmp_path):
    """Half of 6 steps by 1 batch each, and the rest by 2 batches each, which are 12 in all: 6 of them are left."""
    train(trainer_of(tmp_path, Save(tmp_path / "half.ckpt", "on_validation_end", 3), val_check_interval=3))

    def rest(*callbacks: Callback) -> tuple[list[int], int]:
        ends = []

        class Ends(Callback):
            def on_train_batch_end(self, trainer, *_) -> None:
                ends.append(trainer.global_step)

        trainer = trainer_of(tmp_path, Ends(), *callbacks, accumulate_grad_batches=2, val_check_interval=6)
        loader = Batches(12)
        state = torch.load(tmp_path / "half.ckpt", weights_only=True)
        state["loops"]["fit_loop"]["state_dict"]["combined_loader"] = [{"drawn": 6}]
        torch.save(state, tmp_path / "moved.ckpt")
        trainer.fit(Plain(), loader, Rows(1), ckpt_path=tmp_path / "moved.ckpt", weights_only=True)
        return ends, trainer.global_step

    assert rest() != ([3, 4, 4, 5, 5, 6], 6)
    assert rest(CountSteps()) == ([3, 4, 4, 5, 5, 6], 6)


@pytest.mark.parametrize("ours", [False, True], ids=["plain", "ours"])
def test_early_stopping_after_every_batch_looks_when_it_is_over(tmp_path, ours):
    stopping = EarlyStopping("worst", patience=2)
    trainer = trainer_of(tmp_path, stopping, val_check_interval=1)
    if ours:
        compare_after_validation(stopping)
    train(trainer)
    assert trainer.global_step == (3 if ours else 6)


@pytest.mark.parametrize("ours", [False, True], ids=["plain", "ours"])
def test_a_training_that_was_stopped_goes_on_when_resumed(tmp_path, ours):
    def make() -> L.Trainer:
        stopping = EarlyStopping("worst", patience=1, check_on_train_epoch_end=False)
        save = Save(tmp_path / "stopped.ckpt", "on_validation_end", 4)
        return trainer_of(tmp_path, stopping, save, *[StayStopped()] * ours, val_check_interval=2)

    first = make()
    train(first)
    assert first.global_step == 4
    again = make()
    train(again, resume=tmp_path / "stopped.ckpt")
    assert again.global_step == (4 if ours else 6)


def test_more_steps_are_not_stopped_by_the_end_of_fewer(tmp_path):
    def make(steps: int) -> L.Trainer:
        save = Save(tmp_path / "at4.ckpt", "on_validation_end", 4)
        return trainer_of(tmp_path, ValidateAtTheEnd(), StayStopped(), save, val_check_interval=2, steps=steps)

    train(make(4))
    longer = make(6)
    train(longer, resume=tmp_path / "at4.ckpt")
    assert longer.global_step == 6


def test_a_state_saved_before_a_validation_leaves_it_out(tmp_path):
    """Of the two batches of the validation at step 3, when it is saved between the step and the validation."""
    whole = train(trainer_of(tmp_path, val_check_interval=3))
    assert whole.validated == [3, 3, 6, 6]
    train(trainer_of(tmp_path, Save(tmp_path / "early.ckpt", "on_train_batch_end", 3), val_check_interval=3))
    resumed = train(trainer_of(tmp_path, val_check_interval=3), resume=tmp_path / "early.ckpt")
    assert resumed.validated != [3, 3, 6, 6]
    train(trainer_of(tmp_path, Save(tmp_path / "late.ckpt", "on_validation_end", 3), val_check_interval=3))
    resumed = train(trainer_of(tmp_path, val_check_interval=3), resume=tmp_path / "late.ckpt")
    assert resumed.validated == [6, 6]


@pytest.mark.parametrize("stop", [None, 4])
def test_what_is_said_of_a_validation_comes_true(tmp_path, stop):
    said, validated = [], []

    class Ask(Checkpoint):  # which comes after those that stop
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            if validation_follows(trainer, batch_idx):
                said.append(trainer.global_step)

        def on_validation_end(self, trainer, pl_module) -> None:
            validated.append(trainer.global_step)

    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            trainer.should_stop = trainer.should_stop or trainer.global_step == stop

    train(trainer_of(tmp_path, Ask(), Stop(), ValidateAtTheEnd(), val_check_interval=3, steps=5), batches=5)
    assert said == validated == ([3, 4] if stop else [3, 5])


def test_a_checkpoint_goes_through_memory_and_another_folder(tmp_path, monkeypatch):
    places = []
    keep = cloud_io.torch.save
    monkeypatch.setattr(cloud_io.torch, "save", lambda value, place: (places.append(place), keep(value, place))[1])
    cloud_io._atomic_save({"weight": torch.zeros(2)}, tmp_path / "x.ckpt")
    assert [type(place).__name__ for place in places] == ["BytesIO"]


def test_the_plugins_of_other_precisions_have_no_scaler(tmp_path):
    for precision in ("32-true", "bf16-true", "bf16-mixed"):
        assert gradient_scaler(trainer_of(tmp_path, precision=precision)) is None
    assert not hasattr(trainer_of(tmp_path, precision="32-true").precision_plugin, "scaler")


def test_clipping_refuses_a_fused_optimizer(tmp_path):
    train(trainer_of(tmp_path, gradient_clip_val=1.0), module=Plain(fused=True))
    mixed = trainer_of(tmp_path, gradient_clip_val=1.0, precision="bf16-mixed")
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        train(mixed, module=Plain(fused=True))


def test_a_model_stays_in_evaluation_mode(tmp_path):
    module = Plain()
    module.layer.eval()
    train(trainer_of(tmp_path), module=module)
    assert not any(module.modes)


def test_the_trainer_learns_its_step_after_on_fit_start(tmp_path):
    """So the log forgets the lines of later steps by the steps that Mixing counts."""
    train(trainer_of(tmp_path, Save(tmp_path / "half.ckpt", "on_validation_end", 3), val_check_interval=3))
    steps = []

    class Look(Callback):
        def on_fit_start(self, trainer, pl_module) -> None:
            steps.append(trainer.global_step)

    train(trainer_of(tmp_path, Look(), val_check_interval=3), resume=tmp_path / "half.ckpt")
    assert steps == [0]


def test_a_signal_leaves_without_saving(tmp_path):
    saved = []

    class Interrupt(Checkpoint):
        def on_train_batch_end(self, trainer, *_) -> None:
            if trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        def on_save_checkpoint(self, *_) -> None:
            saved.append(True)

    with pytest.raises(SIGTERMException):
        train(trainer_of(tmp_path, Interrupt()))
    assert not saved


def test_the_csv_logger_forgets_the_run_that_is_resumed(tmp_path):
    """And keeps its lines to itself, so MetricsFile is a logger of its own."""
    (tmp_path / "metrics.csv").write_text("loss,step\n0.5,1\n")
    logger = CSVLogger(tmp_path, name="", version="")
    with pytest.warns(UserWarning, match="will be deleted"):
        logger.log_metrics({"loss": 0.25}, 2)
    assert not (tmp_path / "metrics.csv").exists()
    logger.save()
    assert (tmp_path / "metrics.csv").read_text().split() == ["loss,step", "0.25,2"]


@pytest.mark.filterwarnings("ignore:.*across ranks is zero.*")
def test_a_process_without_a_batch_leaves_out_a_validation(tmp_path):
    """While the others wait for it at the end, so EvenBatches has no such process."""
    started = []

    class Look(Callback):
        def on_validation_start(self, trainer, pl_module) -> None:
            started.append(trainer.global_step)

    trainer_of(tmp_path, Look(), val_check_interval=3).fit(Plain(), Batches(6), Rows(0))
    assert not started


def test_a_refused_setting_is_lightnings_own_error(tmp_path):
    """By this type `make_trainer` tells a refused setting from a fault."""
    with pytest.raises(MisconfigurationException):
        trainer_of(tmp_path, gradient_clip_algorithm="nonsense")


SHARDED = """
import json, sys
import lightning as L, torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

class Adapter(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.base, self.adapter = nn.Linear(2, 2), nn.Linear(2, 2)
        self.base.requires_grad_(False)
        self.strict_loading = False
    def configure_model(self):
        fully_shard(self, mesh=self.device_mesh["data_parallel"])
        register_fsdp_forward_method(self, "training_step")
    def training_step(self, batch, batch_idx):
        return self.adapter(self.base(batch)).sum()
    def configure_optimizers(self):
        return torch.optim.AdamW(self.adapter.parameters(), 1e-3)
    def on_save_checkpoint(self, checkpoint):
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if "adapter" in k}

class Look(L.Callback):
    restored = False
    def on_fit_start(self, trainer, module):
        out["restored in on_fit_start"] = self.restored
    def state_dict(self):
        return {"a": 1}
    def load_state_dict(self, state):
        self.restored = True

class Rows:
    def __len__(self):
        return 4
    def __iter__(self):
        return (torch.ones(1, 2) for _ in range(4))

def trainer(steps):
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    strategy = ModelParallelStrategy(1, 1, save_distributed_checkpoint=True)
    return L.Trainer(accelerator="cpu", devices=1, max_steps=steps, strategy=strategy,
                     callbacks=[Look()], **quiet)

def attempt(name, do):
    try:
        do()
        out[name] = "passed"
    except BaseException as error:  # as torch's CheckpointException is
        out[name] = f"{type(error).__name__}: {error}"

out, path = {}, f"{sys.argv[1]}/x.ckpt"
first = trainer(2)
first.fit(Adapter(), Rows())
first.save_checkpoint(path)
attempt("resume", lambda: trainer(4).fit(Adapter(), Rows(), ckpt_path=path, weights_only=True))
print(json.dumps(out))
"""


@pytest.mark.long
def test_fsdp2_restores_late_and_asks_for_frozen_weights(tmp_path):
    """What FullySharded does in another way; in a process of its own, which the group of processes ends with."""
    run = [sys.executable, "-W", "ignore", "-c", SHARDED, str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["restored in on_fit_start"] is False
    assert "base" in seen["resume"], seen["resume"]


def test_fsdp2_spreads_over_machines_by_default():
    plain, ours = ModelParallelStrategy(), FullySharded()
    assert plain.restore_checkpoint_after_setup
    assert not ours.restore_checkpoint_after_setup
    assert plain._data_parallel_size == "auto"  # which becomes `num_nodes` in `setup_environment`

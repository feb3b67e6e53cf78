"""A run goes on by itself: after an error, a signal or a torn checkpoint, with the same settings and no others."""

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixalign.errors import MixalignError, Stopped
from mixalign.training.callbacks.leave import Leave
from mixalign.training.module import AlignModule
from mixalign.verbs import train as train_module
from tests.tiny_runs import train_from_overrides

ROOT = Path(__file__).resolve().parents[2]


def read(path: Path):
    return json.loads(path.read_text())


def same(run: Path, other: Path) -> None:
    """Whether two runs ended with the same bytes."""
    for name in ("mix.jsonl", "mixture.json", "eval.json", "metrics.csv", "model/model.safetensors"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture
def cut(tiny, tmp_path, power_cut):
    """The folder of a run that was cut off at step 3, behind the checkpoint of step 2."""
    folder = tmp_path / "run"
    with power_cut(3):
        train_from_overrides(tiny("val_every=2"), str(folder))
    return folder


@pytest.fixture(scope="module")
def calm(tiny, tmp_path_factory):
    """The same run, undisturbed."""
    folder = tmp_path_factory.mktemp("calm") / "run"
    train_from_overrides(tiny("val_every=2"), str(folder))
    return folder


def test_the_same_folder_goes_on_where_it_stopped(cut, calm, tiny, monkeypatch):
    started, real = [], train_module.train_generalist

    def train(run):
        started.append(run.resume)
        return real(run)

    monkeypatch.setattr(train_module, "train_generalist", train)
    train_from_overrides(tiny("val_every=2"), str(cut))
    assert started == [cut / "checkpoints" / "last.ckpt"]
    same(cut, calm)


@pytest.mark.long
@pytest.mark.parametrize("overrides", [("save_every=1",), ("save_every=1", "mixer=skill_it", "micro_batch_size=3")])
def test_no_validation_is_left_out(tiny, tmp_path, monkeypatch, overrides):
    """A run is cut off in the validation of a step at which a checkpoint is due; mixers may read what it finds."""
    overrides = tiny("val_every=2", *overrides)
    real = AlignModule.on_validation_epoch_end

    def power_cut(self):
        raise RuntimeError("power cut")

    monkeypatch.setattr(AlignModule, "on_validation_epoch_end", power_cut)
    with pytest.raises(RuntimeError, match="power cut"):
        train_from_overrides(overrides, str(tmp_path / "run"))
    monkeypatch.setattr(AlignModule, "on_validation_epoch_end", real)
    for folder in ("run", "calm"):
        train_from_overrides(overrides, str(tmp_path / folder))
    same(tmp_path / "run", tmp_path / "calm")


def test_a_signal_at_a_validated_step_waits_for_the_validation(tiny, tmp_path, monkeypatch):
    overrides = tiny("val_every=2")
    real = Leave._agreed

    def signalled(self, trainer):
        if trainer.global_step == 2 and self.path.is_relative_to(tmp_path):
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, trainer)

    monkeypatch.setattr(Leave, "_agreed", signalled)
    with pytest.raises(Stopped) as caught:
        train_from_overrides(overrides, str(tmp_path / "run"))
    assert caught.value.text.startswith(f"stopped by SIGTERM in the training; saved {tmp_path}/run/checkpoints")
    monkeypatch.undo()
    for folder in ("run", "calm"):
        train_from_overrides(overrides, str(tmp_path / folder))
    same(tmp_path / "run", tmp_path / "calm")


def test_a_torn_checkpoint_is_skipped_and_said(cut, calm, tiny, caplog):
    last = cut / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    train_from_overrides(tiny("val_every=2"), str(cut))
    assert f"{last} cannot be read" in caplog.text
    same(cut, calm)


def test_without_any_whole_checkpoint_it_starts_again(cut, calm, tiny, caplog):
    for path in (cut / "checkpoints").glob("*.ckpt"):
        path.write_bytes(b"torn")
    train_from_overrides(tiny("val_every=2"), str(cut))
    assert caplog.text.count("cannot be read") == 2
    same(cut, calm)


def test_what_the_machine_is_like_may_change_and_what_is_trained_may_not(cut, tiny):
    with pytest.raises(MixalignError, match=r"other settings \(optimizer.lr: got 0.0004, wanted 0.1\)"):
        train_from_overrides(tiny("val_every=2", "optimizer.lr=0.1", "specialists.lr=0.0004"), str(cut))
    train_from_overrides(tiny("val_every=2", "log_every=2", "engine.compile=false", "trainer.devices=1"), str(cut))


def test_a_finished_run_is_not_trained_again(calm, tiny, monkeypatch, caplog):
    def never(*args, **how):
        raise AssertionError("trained again")

    monkeypatch.setattr(train_module, "train_generalist", never)
    result = train_from_overrides(tiny("val_every=2"), str(calm))
    assert result == read(calm / "eval.json")
    with pytest.raises(MixalignError, match=r"other settings \(.*seed: got 0, wanted 1\)"):
        train_from_overrides(tiny("val_every=2", "seed=1"), str(calm))


@pytest.mark.long
@pytest.mark.parametrize("precision", ["32", "32-true", "auto"])
def test_a_precision_as_a_number_or_a_word_is_kept_as_it_was_given(train, precision):
    overrides = ("mixer=uniform", "specialists.train=never", "objective=sft", f"trainer.precision={precision}")
    result = read(train(*overrides) / "eval.json")
    assert read(train(*overrides) / "eval.json") == result


@pytest.mark.long
@pytest.mark.parametrize(
    ("what", "left", "said"),
    [("run", 22, "metrics.csv"), ("run", 60, "step2.ckpt"), ("run", 200, ".ckpt"), ("cache", 104, "scores/")],
)
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(
    calm, tiny, refuse, small_disk, tmp_path, what, left, said
):
    """A real one, with so many KiB left."""
    overrides = [*tiny("val_every=2"), *([f"cache_dir={small_disk}/cache"] if what == "cache" else [])]
    folder = (small_disk if what == "run" else tmp_path) / "run"
    full = small_disk / "full"
    full.write_bytes(bytes(shutil.disk_usage(small_disk).free - left * 1024))
    message = refuse(overrides, folder)
    assert message.startswith(f"The disk is full: {small_disk}/{what}/")
    assert said in message
    full.unlink()
    train_from_overrides(overrides, str(folder))
    same(folder, calm)


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on(start, tiny, tmp_path, number, code):
    """Steps enough for the signal to come in the middle, whatever else the machine does."""
    overrides = [*tiny("steps=400", "val_every=400", "mixer=uniform", "specialists.train=never"), "log_every=50"]
    command = start("train", *overrides, f"run_dir={tmp_path / 'cut'}")
    history = tmp_path / "cut" / "mix.jsonl"
    while command.poll() is None and not (history.is_file() and history.read_text().count("\n") > 20):
        time.sleep(0.005)
    command.send_signal(number)
    assert command.wait(240) == code, command.stderr
    said = f"stopped by {signal.Signals(number).name} in the training; saved {tmp_path}/cut/checkpoints/last.ckpt"
    assert said in command.stderr
    assert "Traceback" not in command.stderr
    assert history.read_text().count("\n") < 400
    for folder in ("cut", "whole"):
        assert start("train", *overrides, f"run_dir={tmp_path / folder}").wait(240) == 0
    same(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.long
def test_five_kills_leave_no_trace(chaos, start, tmp_path):
    """The short form of `make chaos`."""

    def begin(case, folder):
        folder.mkdir(parents=True, exist_ok=True)
        command = start(*chaos.arguments(case, folder))
        (folder / "log").unlink(missing_ok=True)
        (folder / "log").symlink_to(command.folder / "err")
        return command

    found = chaos.disturb("ama_s", 5, tmp_path, random.Random(0), begin)
    assert found.where.total() == 5
    assert found.differing == []


@pytest.fixture
def chaos():
    """The script of `make chaos`."""
    spec = importlib.util.spec_from_file_location("chaos", ROOT / "benchmarks" / "chaos.py")
    module = sys.modules["chaos"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["chaos"]


@pytest.mark.long
def test_too_little_memory_is_said_with_what_to_lower(tiny, tmp_path):
    """A limit on the memory of the process itself, far below what the batch takes."""
    overrides = [*tiny("mixer=uniform", "specialists.train=never", "objective=sft"), "steps=2", "batch_size=4000"]
    overrides += [f"run_dir={tmp_path}/run", "model.hidden_size=1024", "model.intermediate_size=4096"]
    code = (
        "import resource, sys, torch, lightning, transformers, peft, datasets, hydra\n"
        "from mixalign.cli import main\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 900 * 2**20, -1))\n"
        "main()\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, "train", *overrides],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1, done.stderr
    assert "error: Memory ran out with 4000 rows in a forward pass" in done.stderr
    assert "micro_batch_size" in done.stderr
    assert "Traceback" not in done.stderr

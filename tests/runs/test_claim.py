"""What a command may do in a run folder: go on, extend, begin from another run's checkpoint, or nothing."""

import csv
import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch

from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError
from mixalign.jobs.job import prepare
from mixalign.reporting.read.runs import load_run
from mixalign.runs.claim import EARLIER, still_there
from mixalign.runs.folder import write_config
from mixalign.training.checkpoints import checkpoint_name, newest_checkpoint
from mixalign.verbs import evaluate
from tests.tiny_runs import train_from_overrides

CHEAP = ("mixer=uniform", "specialists.train=never", "objective=sft", "val_every=2", "save_every=1")
pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),  # to the folder of another run
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),  # one is left out
]
FILES = ("mix.jsonl", "mixture.json", "eval.json", "metrics.csv", "model/model.safetensors")


def read(path: Path):
    return json.loads(path.read_text())


def steps_of(run: Path) -> tuple[list[int], list[int]]:
    """Those of mix.jsonl, and those of metrics.csv that were trained."""
    lines = [json.loads(line)["step"] for line in (run / "mix.jsonl").read_text().splitlines()]
    with (run / "metrics.csv").open() as file:
        return lines, [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


def same(run: Path, other: Path) -> None:
    for name in FILES:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    kept, wanted = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"]
        for folder in (run, other)
    )
    assert str(kept) == str(wanted)


@pytest.fixture(scope="module")
def short(tiny, tmp_path_factory):
    """Overrides of a run, in a cache that never has specialists."""
    empty = tmp_path_factory.mktemp("empty")
    return lambda *overrides: tiny(*CHEAP, f"cache_dir={empty}", *overrides)


@pytest.fixture
def go(short, tmp_path, caplog):
    """Trains in a folder of the test; gives what eval.json holds."""
    caplog.set_level(logging.INFO, "mixalign")

    def train(run: str, *overrides: str) -> dict:
        caplog.clear()
        return train_from_overrides(short(*overrides), str(tmp_path / run))

    return train


@pytest.fixture(scope="module")
def made(short, tmp_path_factory):
    """Undisturbed runs by their overrides, each made once."""
    runs: dict[tuple[str, ...], Path] = {}

    def make(*overrides: str) -> Path:
        if overrides not in runs:
            runs[overrides] = tmp_path_factory.mktemp("made") / "run"
            train_from_overrides(short(*overrides), str(runs[overrides]))
        return runs[overrides]

    return make


@pytest.fixture
def finished_run(go, tmp_path):
    """An undisturbed run in the folder `run`."""

    def make(*overrides: str) -> Path:
        go("run", *overrides)
        return tmp_path / "run"

    return make


@pytest.mark.long
@pytest.mark.parametrize("more", [(), ("mixer=ama_s", "specialists.train=auto"), ("micro_batch_size=3",)])
def test_an_extended_run_is_the_longer_run(go, made, finished_run, caplog, cache, more):
    more = (*more, f"cache_dir={cache}") if "mixer=ama_s" in more else more
    run = finished_run("steps=4", *more)
    results = {name: (run / name).read_bytes() for name in ("eval.json", "mixture.json", "cost.json", "config.yaml")}
    go("run", "steps=8", *more)
    same(run, made("steps=8", *more))
    assert "steps: 8" in (run / "config.yaml").read_text()
    for name, content in results.items():
        assert (run / EARLIER / "4" / name).read_bytes() == content
    assert (run / EARLIER / "4" / "model" / "model.safetensors").is_file()
    assert "extended from 4 to 8 steps: the schedule of the learning rate (constant) is computed anew" in caplog.text
    assert f"goes on from step 4 of 8 ({run}/checkpoints/last.ckpt)" in caplog.text
    cost = load_run(run).cost
    assert cost is not None
    assert cost.steps["training"] == 8, "what it cost until the fourth step is part of it, and not beside it"


@pytest.mark.long
def test_a_run_that_is_extended_is_not_finished_until_it_is(go, made, finished_run, power_cut):
    run = finished_run("steps=4")
    with power_cut(7):
        go("run", "steps=8")
    assert not (run / "eval.json").exists()
    assert not (run / "model").exists()
    kept = f" The results at 4 steps are still there: {run / EARLIER / '4'}."
    assert still_there(run) == kept
    with pytest.raises(MixalignError, match=r"holds a run of 8 steps, and `steps` is 4.*steps=8 to go on") as caught:
        go("run", "steps=4")
    assert str(caught.value).endswith(kept)
    with pytest.raises(MixalignError, match="has no model to evaluate") as caught:
        evaluate.run(run, "test")
    assert str(caught.value).endswith(kept)
    go("run", "steps=8")
    assert still_there(run) == "", "they are superseded"
    same(run, made("steps=8"))


@pytest.mark.long
@pytest.mark.parametrize("moved", [1, 2, 3])
def test_setting_results_aside_may_be_interrupted(go, made, finished_run, monkeypatch, moved):
    run, left, rename = finished_run("steps=4"), [moved], Path.rename

    def stop(self, target):
        if not left[0]:
            raise RuntimeError("power cut")
        left[0] -= 1
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(RuntimeError, match="power cut"):
            go("run", "steps=8")
    assert not (run / "eval.json").exists()
    go("run", "steps=8")
    same(run, made("steps=8"))
    assert {*(path.name for path in (run / EARLIER / "4").iterdir())} >= {"eval.json", "mixture.json", "model"}


@pytest.mark.long
def test_a_run_that_was_interrupted_may_get_more_steps_too(go, made, tmp_path, power_cut, caplog):
    with power_cut(3):
        go("run", "steps=4")
    go("run", "steps=8")
    assert "goes on from step 2 of 8" in caplog.text or "goes on from step 3 of 8" in caplog.text
    same(tmp_path / "run", made("steps=8"))
    assert not (tmp_path / "run" / EARLIER).exists()


@pytest.mark.long
def test_the_interval_of_validations_follows_the_steps_where_nobody_set_it(go, tmp_path):
    go("run", "val_every=null", "steps=4")
    assert go("run", "val_every=null", "steps=24", "batch_size=6")["steps"] == 24
    assert "val_every: 2" in (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(MixalignError, match=r"other settings .val_every: got 2, wanted 3"):
        go("run", "val_every=3", "steps=48")


UNREAD = ("influence.samples=7", "influence.damping=.3", "probe.rows=3", "probe.weights=q_proj", "reference.seed=5")


@pytest.mark.long
@pytest.mark.parametrize("more", [(), ("objective=dpo", "reference.sft_steps=0")])
def test_settings_that_a_run_does_not_read_are_not_compared(go, tmp_path, power_cut, caplog, more):
    unread = (*UNREAD, "reference.sft_lr=.2", "reference.sft_batch_size=3", *["reference.sft_steps=9"] * (not more))
    with power_cut(3):
        go("run", "steps=4", *more)
    result = go("run", "steps=4", *more, *unread)
    assert "goes on from step" in caplog.text
    assert "samples: 7" in (tmp_path / "run" / "config.yaml").read_text()
    assert go("run", "steps=4", *more) == result
    assert "is finished already" in caplog.text


@pytest.mark.parametrize(
    ("of", "now"),
    [
        (("mixer=ideal", "mixer.rounds=1"), "influence.damping=.3"),
        (("mixer=doge", "val_every=4"), "probe.rows=3"),
        (("objective=dpo", "reference.sft_steps=1"), "reference.seed=5"),
        (("objective=dpo", "reference.sft_steps=0"), "reference.sft_steps=1"),
    ],
)
def test_settings_that_a_run_reads_are_compared(go, short, tmp_path, of, now):
    settings = compose_settings(short("steps=4", *of))
    write_config(tmp_path / "run", prepare(settings))
    with pytest.raises(MixalignError, match=rf"other settings \({now.split('=')[0]}: got"):
        go("run", "steps=4", *of, now)


@pytest.mark.long
@pytest.mark.parametrize(
    ("overrides", "then", "now", "said"),
    [
        ((), 4, 2, "holds a run of 4 steps, and `steps` is 2: its schedule was made for all of them."),
        (
            ("optimizer.schedule=linear", "optimizer.warmup_steps=0"),
            4,
            8,
            "its learning rate has come down to 0 (`optimizer.schedule=linear`)",
        ),
        (("optimizer.schedule=cosine", "optimizer.warmup_steps=0"), 4, 8, "own: `resume="),
        (("mixer.wrap.warmup=.5",), 4, 8, "`mixer=uniform` plans by the number of steps"),
        (("mixer=doge", "val_every=4"), 4, 8, "`mixer=doge` has a proxy, which trained for 4."),
        (("optimizer.lr=0.1",), 4, 8, ""),
    ],
)
def test_what_cannot_be_extended_is_refused_and_stays(go, finished_run, overrides, then, now, said):
    run = finished_run(f"steps={then}", *(text for text in overrides if "optimizer.lr=" not in text))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(MixalignError) as caught:
        go("run", f"steps={now}", *overrides)
    assert (said or "other settings (optimizer.lr: got") in str(caught.value)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_rounds_are_not_extended(go, finished_run):
    finished_run("steps=2", "mixer=ideal", "mixer.rounds=1")
    with pytest.raises(MixalignError, match="`mixer=ideal` has rounds, each of which trained for 2"):
        go("run", "steps=4", "mixer=ideal", "mixer.rounds=1")


EARLY = (
    "callbacks=early_stopping",
    "callbacks.early_stopping.monitor=eval/worst_loss",
    "callbacks.early_stopping.patience=1",
    "callbacks.early_stopping.min_delta=100",
    "val_every=1",
)


@pytest.mark.long
def test_a_run_that_a_callback_ended_says_so_and_is_not_extended(go, tmp_path, in_process):
    result = go("run", "steps=8", *EARLY)
    assert result["steps"] == 2
    assert result["stopped"].startswith("by EarlyStopping (Monitored metric eval/worst_loss did not improve")
    assert result["stopped"].endswith("at step 2 of 8")
    assert go("run", "steps=8", *EARLY) == result
    with pytest.raises(MixalignError, match=r"from 8 to 12 steps: it was ended by EarlyStopping \(Monitored"):
        go("run", "steps=12", *EARLY)
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(MixalignError, match=r"ended by EarlyStopping .*Leave that callback out"):
        go("other", "steps=8", *EARLY, f"resume={checkpoint}")
    assert go("other", "steps=8", "val_every=1", f"resume={checkpoint}")["steps"] == 8
    code, out, _ = in_process("report", tmp_path)
    assert code == 0
    assert "at step 2 of 8" in " ".join(out.split())
    assert not re.search(r"(^|\s)-6\b", out), "steps that were not taken cost nothing"


@pytest.mark.long
def test_a_checkpoint_of_another_run_goes_on_to_more_steps(go, made, tmp_path, caplog):
    checkpoint = made("steps=4") / "checkpoints" / "last.ckpt"
    result = go("run", "steps=8", "export=last", f"resume={checkpoint}")
    assert result["steps"] == 8
    assert f"goes on from step 4 of 8 ({checkpoint})" in caplog.text
    run, whole = tmp_path / "run", made("steps=8", "export=last")
    for name in ("mixture.json", "eval.json", "model/model.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert steps_of(run) == tuple(part[4:] for part in steps_of(whole))


@pytest.mark.parametrize("steps", [2, 4])
def test_a_checkpoint_with_nothing_left_to_do_is_refused(go, made, tmp_path, steps):
    with pytest.raises(MixalignError, match=rf"has made 4 steps, and `steps` is {steps}, which counts from the start"):
        go("run", f"steps={steps}", f"resume={made('steps=4') / 'checkpoints' / 'last.ckpt'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
@pytest.mark.parametrize("moment", [5, 7])
def test_the_same_command_with_resume_goes_on_from_its_own_checkpoint(go, made, tmp_path, power_cut, caplog, moment):
    """Cut off behind step 5 (before its first own checkpoint was written), or behind step 7."""
    checkpoint = Path(shutil.copy(made("steps=4") / "checkpoints" / "last.ckpt", tmp_path / "start.ckpt"))
    asked = ("steps=8", "save_every=2", "export=last", f"resume={checkpoint}")
    with power_cut(moment):
        go("run", *asked)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file() == (moment == 7)
    if moment == 5:
        with pytest.raises(MixalignError, match=rf"was begun from the checkpoint {checkpoint} and has none of its own"):
            go("run", "steps=8", "save_every=2", "export=last")
    moved = checkpoint.rename(tmp_path / "moved.ckpt")  # it is known by its content
    go("run", "steps=8", "save_every=2", "export=last", f"resume={moved}")
    assert f"goes on from step {4 if moment == 5 else 6} of 8" in caplog.text
    run, whole = tmp_path / "run", made("steps=8", "export=last")
    assert (run / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()
    assert steps_of(run) == tuple(part[4:] for part in steps_of(whole))
    assert read(run / "identity.json")["begun_from"]["step"] == 4
    result = read(run / "eval.json")
    assert go("run", "steps=8", "save_every=2", "export=last", f"resume={moved}") == result
    assert "is finished already" in caplog.text
    assert go("run", "steps=8", "save_every=2", "export=last") == result, (
        "with its own checkpoint it needs to be told no more"
    )


@pytest.mark.long
def test_resume_into_the_folder_of_another_run_is_refused(go, made, finished_run, power_cut, tmp_path):
    first, other = made("steps=4") / "checkpoints" / "last.ckpt", made("steps=4", "seed=1")
    with power_cut(3):
        go("cut", "steps=8")
    for run in (finished_run("steps=8"), tmp_path / "cut"):
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(MixalignError, match=r"already holds a run that was not begun from `resume=.*without one"):
            go(run.name, "steps=8", f"resume={first}")
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    go("begun", "steps=8", f"resume={first}")
    with pytest.raises(MixalignError, match=rf"not begun from .*, but from {first} as it was at step 4"):
        go("begun", "steps=8", f"resume={other / 'checkpoints' / 'last.ckpt'}")


@pytest.mark.long
def test_its_own_checkpoint_is_the_newest_or_refused(go, tmp_path, made, power_cut):
    with power_cut(7):
        go("run", "steps=8")
    checkpoints = tmp_path / "run" / "checkpoints"
    older = Path(shutil.copy(made("steps=4") / "checkpoints" / "last.ckpt", checkpoints / "older.ckpt"))
    with pytest.raises(MixalignError, match=r"is of step 4, and its run has gone on to step 6"):
        go("run", "steps=8", f"resume={older}")
    go("run", "steps=8", f"resume={checkpoints / 'last.ckpt'}")
    same(tmp_path / "run", made("steps=8"))


def test_checkpoints_without_a_configuration_are_not_gone_on_with(go, finished_run):
    (finished_run("steps=4") / "config.yaml").unlink()
    with pytest.raises(MixalignError, match=r"has checkpoints, but no config.yaml that says of what"):
        go("run", "steps=4")


def test_a_copied_checkpoint_is_known_by_its_content_and_steps(finished_run, made, tmp_path):
    last = made("steps=4") / "checkpoints" / "last.ckpt"
    name = checkpoint_name(last)
    assert checkpoint_name(Path(shutil.copy(last, tmp_path / "renamed.ckpt"))) == name
    assert checkpoint_name(made("steps=8") / "checkpoints" / "last.ckpt") != name
    run = finished_run("steps=8")
    for path in (run / "checkpoints").glob("step*.ckpt"):
        path.touch()  # a copy is as old as it was copied
    assert newest_checkpoint(run) == run / "checkpoints" / "last.ckpt"


CHANGED = (
    "optimizer.lr=0.01",
    "optimizer.weight_decay=0.3",
    "optimizer.betas=[0.5,0.6]",
    "optimizer.eps=1e-3",
    "optimizer.max_grad_norm=0.05",
    "optimizer.warmup_steps=0",
)


def test_another_optimizer_on_resume_is_the_one_that_trains(go, made, tmp_path, monkeypatch, caplog):
    """The weights behind one step: AdamW by hand from the checkpoint's moments and the step's gradients."""
    seen, step = [], torch.optim.AdamW.step

    def look(optimizer, closure=None):
        (group,) = optimizer.param_groups
        before = [weight.detach().clone() for weight in group["params"]]
        result = step(optimizer, closure)
        after = [weight.detach().clone() for weight in group["params"]]
        seen.append((before, [weight.grad.clone() for weight in group["params"]], after))
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    checkpoint = made("steps=4") / "checkpoints" / "last.ckpt"
    seen.clear()
    go("changed", "steps=5", f"resume={checkpoint}", *CHANGED)
    said = next(line for line in caplog.messages if line.startswith("The optimizer's settings are others"))
    for part in ("lr: then 0.003, now 0.01", "weight_decay: then 0", "betas: then [0.9, 0.999], now [0.5, 0.6]"):
        assert part in said
    assert "eps: then 1e-08, now 0.001" in said
    assert "max_grad_norm: then 1.0, now 0.05" in said
    assert "lr: 0.01" in (tmp_path / "changed" / "config.yaml").read_text()
    ((before, gradients, after),) = seen
    (saved,) = torch.load(checkpoint, weights_only=True)["optimizer_states"]
    assert torch.stack([g.norm() for g in gradients]).norm().item() == pytest.approx(0.05, rel=1e-4)
    for number, (weight, gradient, wanted) in enumerate(zip(before, gradients, after, strict=True)):
        state = saved["state"][number]
        assert state["step"] == 4
        first = 0.5 * state["exp_avg"] + 0.5 * gradient
        second = 0.6 * state["exp_avg_sq"] + 0.4 * gradient**2
        change = first / (1 - 0.5**5) / ((second / (1 - 0.6**5)).sqrt() + 1e-3)
        torch.testing.assert_close(weight * (1 - 0.01 * 0.3) - 0.01 * change, wanted, atol=1e-6, rtol=1e-5)


def test_the_same_optimizer_on_resume_is_not_spoken_of(go, made, caplog):
    go("same", "steps=5", f"resume={made('steps=4') / 'checkpoints' / 'last.ckpt'}")
    assert not any(line.startswith("The optimizer's settings") for line in caplog.messages)

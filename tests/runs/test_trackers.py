"""What trackers are told of a run: a recorder at Lightning's own interface, W&B's `init` a stub, files read back."""

import csv
import json
from unittest.mock import MagicMock

import numpy as np
import pytest
import wandb
import yaml
from lightning.pytorch.loggers.logger import Logger

from mixalign.runs import trackers
from mixalign.training.callbacks.mixture_picture import draw_path
from tests.tiny_runs import TASKS, train_from_overrides

RECORDER = "tests.runs.test_trackers.Recorder"
CHEAP = ("mixer=uniform", "specialists.train=never", "objective=sft")


kept = []
"""Every recorder that was built."""


class Recorder(Logger):
    """A user's own logger, which keeps what it is told."""

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.hyperparams, self.metrics, self.images = {}, [], {}
        kept.append(self)

    name = version = "recorder"

    def log_hyperparams(self, params, *args, **kwargs):
        self.hyperparams |= params

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, dict(metrics)))

    def log_image(self, key, images, step=None):
        self.images[key] = images

    def values(self, name):
        return {step: line[name] for step, line in self.metrics if name in line}


@pytest.fixture(scope="module")
def recorded(tiny, tmp_path_factory):
    """The folder of a run with its specialists' cache beside it, and what a logger of the user's own was told."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXALIGN_TARGETS", RECORDER)
        own = f"+logger.own={{_target_: {RECORDER}}}"
        train_from_overrides(tiny("mixer=ama_s", own, f"cache_dir={folder / 'cache'}"), str(folder / "run"))
    return folder / "run", kept[-1]


@pytest.fixture
def wandb_runs(monkeypatch):
    """The runs that W&B was asked for: what it was asked with, and a mock."""
    runs = []

    def init(**options):
        runs.append((options, MagicMock()))
        return runs[-1][1]

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "run", None)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    return runs


def lines_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def logged(run):
    """name -> value of the last line that W&B got of it."""
    return {name: value for call in run.log.call_args_list for name, value in call.args[0].items()}


def test_every_logger_gets_configuration_curves_results_and_picture(recorded):
    run, told = recorded
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert json.loads(json.dumps(told.hyperparams)) == config
    result = json.loads((run / "eval.json").read_text())
    for task in TASKS:
        assert told.values(f"test_loss/{task}") == {4: result["tasks"][task]["loss"]}
        assert told.values(f"test_excess/{task}") == {4: result["tasks"][task]["excess"]}
        assert [*told.values(f"specialist_loss/{task}")] == [1, 2, 3]
    assert told.values("test/worst_excess") == {4: result["worst"]["excess"]["value"]}
    assert told.values("test/mean_loss") == {4: result["mean"]["loss"]}
    (image,) = told.images["mixture_path"]
    assert image.dtype == np.uint8
    assert image.shape[2] == 3


def test_metrics_csv_has_the_numbers_of_the_curves_and_no_others(recorded):
    run, told = recorded
    rows = lines_of(run / "metrics.csv")
    names = {name for _, line in told.metrics for name in line if not name.startswith(("test", "specialist_loss/"))}
    assert names | {"step"} == {*rows[0]}
    for name in names:
        written = {int(row["step"]): float(row[name]) for row in rows if row[name]}
        assert written == pytest.approx(told.values(name))


def test_a_specialist_keeps_its_curve_in_the_cache(recorded):
    run, told = recorded
    for task in TASKS:
        (folder,) = (run.parent / "cache" / "specialists").glob(f"{task}-*")
        rows = lines_of(folder / "metrics.csv")
        assert {int(row["step"]): float(row["train/loss"]) for row in rows} == told.values(f"specialist_loss/{task}")
        assert all(float(row["train/loss"]) == pytest.approx(float(row[f"loss/{task}"])) for row in rows)


def test_wandb_gets_a_table_a_summary_a_picture_and_specialists_on_their_own_steps(tiny, wandb_runs, tmp_path):
    train_from_overrides(tiny("mixer=ama_s", "logger=wandb"), str(tmp_path / "run"))
    ((options, run),) = wandb_runs
    assert (options["group"], options["tags"]) == (None, ["ama_s", "dpo", "seed0"])
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    sent = {}
    for call in run.config.update.call_args_list:
        sent |= call.args[0]
    assert {key: sent[key] for key in ("mixer", "seed", "steps", "data")} == {
        key: config[key] for key in ("mixer", "seed", "steps", "data")
    }
    result = json.loads((tmp_path / "run" / "eval.json").read_text())
    table = logged(run)["test"]
    assert table.columns[:4] == ["task", "rows", "split", "held_out"]
    assert {"loss", "excess", "gap", "accuracy"} <= {*table.columns}
    assert [row[0] for row in table.data] == list(TASKS)
    (summary,) = [call.args[0] for call in run.summary.update.call_args_list]
    assert summary["test/worst_excess"] == result["worst"]["excess"]["value"]
    assert summary["test/worst_excess_task"] == result["worst"]["excess"]["task"]
    assert summary[f"test_loss/{TASKS[0]}"] == result["tasks"][TASKS[0]]["loss"]
    assert isinstance(logged(run)["mixture_path"][0], wandb.Image)
    run.define_metric.assert_any_call("specialist_loss/*", step_metric="specialist_step")
    steps = [call.args[0] for call in run.log.call_args_list if f"specialist_loss/{TASKS[1]}" in call.args[0]]
    assert [line["specialist_step"] for line in steps] == [1, 2, 3]
    assert run.finish.called


@pytest.mark.long
def test_runs_of_a_sweep_have_its_name_as_group_and_are_finished_one_by_one(tiny, wandb_runs, tmp_path):
    sweep = tmp_path / "my_sweep"
    sweep.mkdir()
    (sweep / "multirun.yaml").write_text("")
    events = []
    for seed in (0, 1):
        before = len(wandb_runs)
        train_from_overrides(tiny(*CHEAP, "logger=wandb", f"seed={seed}"), str(sweep / str(seed)))
        events += [(options["group"], options["tags"][2], run.finish.called) for options, run in wandb_runs[before:]]
    assert events == [("my_sweep", "seed0", True), ("my_sweep", "seed1", True)]


@pytest.mark.long
def test_group_and_tags_of_the_users_own_win(tiny, wandb_runs, tmp_path, monkeypatch):
    own = ("logger.wandb.group=mine", "logger.wandb.tags=[a]")
    train_from_overrides(tiny(*CHEAP, "logger=wandb", *own), str(tmp_path / "run"))
    monkeypatch.setenv("WANDB_TAGS", "b")
    train_from_overrides(tiny(*CHEAP, "logger=wandb"), str(tmp_path / "other"))
    assert [(options["group"], options["tags"]) for options, _ in wandb_runs] == [("mine", ["a"]), (None, None)]


def test_a_run_that_failed_is_finished_too(tiny, wandb_runs, tmp_path, power_cut):
    with power_cut(2):
        train_from_overrides(tiny(*CHEAP, "logger=wandb", "save_every=1"), str(tmp_path / "run"))
    ((_, run),) = wandb_runs
    assert run.finish.called


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "trackio"])
def test_a_missing_package_is_said_before_any_training(refuse, tiny, tmp_path, monkeypatch, name):
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    message = refuse(tiny(f"logger={name}", f"cache_dir={tmp_path / 'cache'}"))
    assert f"`logger={name}` needs the package {name}, which is not installed: `pip install {name}`" in message
    assert not [*(tmp_path / "cache").rglob("*.safetensors")]


def test_a_picture_of_one_step_and_of_many_tasks():
    assert draw_path(np.array([1]), np.ones((1, 1)), ["a"]).ndim == 3
    assert draw_path(np.arange(9), np.full((9, 40), 1 / 40), [f"task{k}" for k in range(40)]).ndim == 3

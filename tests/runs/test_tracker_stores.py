"""Trackers with files of their own, read back by their own libraries: TensorBoard, MLflow and trackio."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from tests.tiny_runs import TASKS, train_from_overrides

CHEAP = ("mixer=uniform", "specialists.train=never", "objective=sft", "save_every=1", "val_every=2")


@pytest.fixture
def go(tiny, tmp_path):
    return lambda run, *more: train_from_overrides(tiny(*CHEAP, *more), str(tmp_path / run))


def curve_of(run: Path, name: str) -> dict[int, float]:
    """Of metrics.csv."""
    with (run / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


def results(run: Path) -> dict[str, float]:
    result = json.loads((run / "eval.json").read_text())
    by_task = {f"test_loss/{task}": row["loss"] for task, row in result["tasks"].items()}
    return by_task | {"test/worst_loss": result["worst"]["loss"]["value"], "test/mean_loss": result["mean"]["loss"]}


@pytest.mark.filterwarnings("ignore")
def test_tensorboard(tiny, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2

    run = tmp_path / "run"
    train_from_overrides(tiny("mixer=ama_s", "logger=tensorboard"), str(run))
    found = EventAccumulator(str(run / "tensorboard"), {"tensors": 0, "images": 0}).Reload()
    for name in (f"alpha/{TASKS[0]}", f"eval_loss/{TASKS[1]}", "train/loss", "eval/worst_excess"):
        values = {event.step: event.value for event in found.Scalars(name)}
        assert values == pytest.approx(curve_of(run, name), rel=1e-6)
    for name, value in results(run).items():
        (event,) = found.Scalars(name)
        assert (event.step, event.value) == (4, pytest.approx(value))
    assert [event.step for event in found.Scalars(f"specialist_loss/{TASKS[2]}")] == [1, 2, 3]
    assert len(found.Images("mixture")) == 1
    (event,) = found.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == ["mixture", "tasks"]
    assert layout.category[0].chart[0].multiline.tag == ["alpha/.*"]
    hparams = yaml.safe_load((run / "tensorboard" / "hparams.yaml").read_text())
    assert hparams["mixer"]["name"] == "ama_s"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.long
def test_a_tensorboard_run_that_was_killed_goes_on_in_one_curve(go, power_cut, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with power_cut(3):
        go("run", "logger=tensorboard")
    go("run", "logger=tensorboard")
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    name = f"loss/{TASKS[0]}"
    assert [event.step for event in found.Scalars(name)] == [*curve_of(tmp_path / "run", name)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.long
def test_mlflow_is_one_run_when_it_goes_on_and_is_extended(go, power_cut, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with power_cut(3):
        go("run", "logger=mlflow")
    go("run", "logger=mlflow")
    go("run", "logger=mlflow", "steps=6")
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("mixalign").experiment_id])
    assert json.loads((tmp_path / "run" / "mlflow.json").read_text()) == {"mlflow": run.info.run_id}
    assert run.info.status == "FINISHED"
    assert (run.data.params["mixer/name"], run.data.params["seed"]) == ("uniform", "0")
    assert {"mixer": "uniform", "objective": "sft", "seed": "0", "steps": "6"}.items() <= run.data.tags.items()
    name = f"alpha/{TASKS[0]}"
    values = {one.step: one.value for one in client.get_metric_history(run.info.run_id, name)}
    assert values == pytest.approx(curve_of(tmp_path / "run", name))
    for name, value in results(tmp_path / "run").items():
        assert run.data.metrics[name] == pytest.approx(value)
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["mixture.png"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.long
def test_trackio_keeps_the_curves_and_goes_on_in_one_run(go, power_cut, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    with power_cut(3):
        go("run", "logger=trackio")
    go("run", "logger=trackio")
    ids = json.loads((tmp_path / "run" / "trackio.json").read_text())
    (name,) = SQLiteStorage.get_runs("mixalign")
    assert name == f"uniform_seed0-{ids['trackio']}"
    assert SQLiteStorage.get_run_config("mixalign", name)["mixer"]["name"] == "uniform"
    lines = SQLiteStorage.get_logs("mixalign", name)
    key = f"alpha/{TASKS[0]}"
    assert {line["step"]: line[key] for line in lines if key in line} == curve_of(tmp_path / "run", key)
    for key, value in results(tmp_path / "run").items():
        assert [line[key] for line in lines if key in line] == [value]
    assert len([line for line in lines if "mixture_path" in line]) == 1

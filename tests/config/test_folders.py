"""Folders of commands: a name that nobody else has, and none left of a command that was refused."""

import os
import re
import threading
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mixalign.config.compose import register_resolvers
from mixalign.config.folders import FreshFolder, _chosen
from mixalign.files import LOCK, NewFolder

CHEAP = ("mixer=uniform", "specialists.train=never", "objective=sft")
REFUSED = ("specialists.train=never", "mixer=ama_s")  # known before any row is read


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def config(run_dir: str | None = None):
    register_resolvers()
    dirs = {kind: {"dir": "${or:${run_dir},runs/12-00-00_" + kind + "}"} for kind in ("run", "sweep")}
    return OmegaConf.create({"run_dir": run_dir, "hydra": {**dirs, "overrides": {"hydra": []}}})


def test_commands_of_one_second_have_a_folder_each(tmp_path):
    names: list[str] = []

    def take():
        cfg = config()
        FreshFolder().on_run_start(cfg)
        names.append(cfg.hydra.run.dir)

    several = [threading.Thread(target=take) for _ in range(8)]
    for one in several:
        one.start()
    for one in several:
        one.join(60)
    assert sorted(names) == sorted(["runs/12-00-00_run", *(f"runs/12-00-00_run_{n}" for n in range(2, 9))])
    assert all(Path(name).is_dir() for name in names)


def test_so_have_sweeps_and_their_runs_know_it():
    for name in ("runs/12-00-00_sweep", "runs/12-00-00_sweep_2"):
        cfg = config()
        FreshFolder().on_multirun_start(cfg)
        assert (cfg.hydra.sweep.dir, cfg.hydra.overrides.hydra) == (name, [f"hydra.sweep.dir='{name}'"])


def test_a_folder_that_was_named_is_that_folder():
    for _ in range(2):
        cfg = config("mine")
        FreshFolder().on_run_start(cfg)
        assert (cfg.hydra.run.dir, cfg.hydra.overrides.hydra) == ("mine", [])
    _chosen.clear()


@pytest.mark.long
def test_runs_and_sweeps_without_a_run_dir_go_to_folders_of_their_own(in_process, tiny, monkeypatch, tmp_path):
    overrides = tiny(*CHEAP, "steps=1")
    for arguments in (["train"], ["train"], ["train", "-m"], ["train", "-m"]):
        code, _, err = in_process(*arguments, *overrides)
        assert code == 0, err
    runs = sorted(path.parent.relative_to(tmp_path / "runs") for path in (tmp_path / "runs").rglob("eval.json"))
    assert len(runs) == 4, "no run was taken for one that is finished"
    assert [bool(re.search(r"_sweep(_2)?/0_uniform_seed0$", str(run))) for run in runs].count(True) == 2


@pytest.mark.long
@pytest.mark.parametrize("overrides", [REFUSED, ("batch_size=0",), ("steps=1", "data.tasks.helpful.rows=0")])
@pytest.mark.parametrize("place", [(), ("run_dir=new/run",)], ids=["default", "named"])
@pytest.mark.parametrize("verb", [("train",), ("train", "-m")], ids=["run", "sweep"])
def test_a_refused_command_leaves_no_folder(in_process, tiny, tmp_path, overrides, place, verb, monkeypatch):
    code, _, err = in_process(*verb, *tiny(*overrides, *place))
    assert code == 1
    assert "error: " in err
    assert os.listdir(tmp_path) == [], "not even `runs/`"


@pytest.mark.long
@pytest.mark.parametrize("verb", [("train",), ("train", "-m")], ids=["run", "sweep"])
def test_a_folder_that_was_there_stays(in_process, tiny, tmp_path, verb):
    (tmp_path / "mine").mkdir()
    code, _, _ = in_process(*verb, *tiny(*REFUSED, "run_dir=mine"))
    assert code == 1
    assert os.listdir(tmp_path) == ["mine"]
    assert {*os.listdir("mine")} <= {"multirun.yaml"}, "of a sweep, which Hydra writes"


def test_a_refused_run_in_python_leaves_no_folder(refuse, tiny, tmp_path):
    refuse(tiny(*CHEAP, "data.tasks.helpful.rows=0"), tmp_path / "new" / "run")
    assert os.listdir(tmp_path) == []


def test_a_folder_in_which_a_run_began_is_not_removed(tmp_path):
    for name in ("config.yaml", LOCK, "train.log"):
        new = NewFolder.of(tmp_path / "above" / name.partition(".")[0])
        new.path.mkdir(parents=True)
        (new.path / name).touch()
        new.remove_if_unused()
    assert os.listdir(tmp_path) == ["above"]
    assert os.listdir(tmp_path / "above") == ["config"]

"""CONTRIBUTING's table holds: one of each is added in a temporary folder, by its file and its YAML, and used."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]

MINE = '''
from dataclasses import dataclass

import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from mixalign.mixers.base import Mix
from mixalign.objectives.sft import SFT


@dataclass(frozen=True)
class FirstTask:
    share: float = 0.5
    needs = frozenset()
    composition, descends_on, clip = "stratified", "loss", "none"

    def init(self, rows_K):
        rest = (1 - self.share) / (len(rows_K) - 1)
        sample_K = torch.full((len(rows_K),), rest, dtype=torch.float64)
        sample_K[0] = self.share
        return Mix(sample_K), {"sample_K": sample_K}

    def update(self, signal, state):
        return Mix(state["sample_K"]), state


@dataclass(frozen=True)
class Halved(SFT):
    """Half the cross-entropy."""

    factor: float = 0.5
    name = "halved"

    def scores(self, logp_BS, batch):
        return {"loss": super().scores(logp_BS, batch)["loss"] * self.factor}


class Count(Callback):
    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, pl_module):
        with open(self.path, "w") as file:
            file.write(str(trainer.global_step))


class Mine(CSVLogger):
    def __init__(self, save_dir):
        super().__init__(save_dir, name="mine", version="")
'''


def write(folder: Path, files: dict[str, dict]) -> None:
    for name, content in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))


@pytest.mark.slow
def test_from_outside(cli, tiny, tmp_path):
    """A mixer, an objective, a callback, a logger and a data preset: two steps with all of them."""
    (tmp_path / "mine.py").write_text(MINE)
    small = {"generator": "helpful", "rows": 20, "validation_rows": 8, "test_rows": 8}
    write(
        tmp_path / "conf",
        {
            "mixer/first": {"_target_": "mine.FirstTask", "name": "first", "share": 0.75},
            "objective/halved": {"_target_": "mine.Halved", "name": "halved", "factor": 0.5},
            "callbacks/count": {"count": {"_target_": "mine.Count", "path": str(tmp_path / "steps")}},
            "logger/mine": {"mine": {"_target_": "mine.Mine"}},
            "data/mine": {
                "defaults": ["local"],
                "tasks": {"one": small, "two": small | {"generator": "compare"}},
                "max_length": 32,
            },
        },
    )
    groups = ("mixer=first", "objective=halved", "callbacks=count", "logger=mine", "data=mine")
    model = [text for text in tiny() if not text.startswith("data.")]
    done = cli(
        *("train", "--config-dir", str(tmp_path / "conf"), *model, *groups),
        *("steps=2", "specialists.train=never", f"run_dir={tmp_path / 'run'}"),
        PYTHONPATH=f"{ROOT}:{tmp_path}",
        MIXALIGN_TARGETS="mine.*",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert (result["mixer"], result["objective"], list(result["tasks"])) == ("first", "halved", ["one", "two"])
    assert (tmp_path / "steps").read_text() == "2"
    assert (tmp_path / "run" / "mine" / "metrics.csv").is_file()
    assert json.loads((tmp_path / "run" / "mixture.json").read_text())["sample_mean"] == pytest.approx([0.75, 0.25])


FORMAT = """def _mine(fields: Row) -> Example:
    return {"prompt": fields["question"], "completion": fields["answer"]}


"""


def insert(file: Path, before: str, text: str) -> None:
    """Adds a line of a table, or what the line needs."""
    content = file.read_text()
    assert content.count(before) == 1, f"{file} has {content.count(before)} times {before!r}"
    file.write_text(content.replace(before, text + before))


@pytest.mark.slow
def test_inside(tmp_path):
    """A preference loss, a format, a curvature and a verb, in a copy of the package: a file and a line each."""
    for name in ("mixalign", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    package = tmp_path / "mixalign"
    insert(
        package / "losses" / "preference.py",
        '    "robust": Pref',
        '    "mine": PreferenceLoss(robust, smooths=True),\n',
    )
    insert(package / "influence" / "curvature.py", '    "kfac": Curv', '    "mine": Curvature(None),\n')
    insert(package / "data" / "read" / "formats.py", "FORMATS: ", FORMAT)
    insert(package / "data" / "read" / "formats.py", '    (("text",)', '    (("question", "answer"), (), _mine),\n')
    (package / "verbs" / "hello.py").write_text(
        '"""Says hello: to whoever asks."""\n\n\ndef main() -> None:\n    print("hello")\n'
    )
    write(tmp_path / "conf", {"influence/mine": {"defaults": ["_base"], "curvature": "mine"}})
    code = (
        "from mixalign.config.compose import compose_settings as c\n"
        "assert c(['objective.loss=mine']).objective.loss == 'mine'\n"
        "assert c(['mixer=ideal', 'influence=mine']).influence.curvature == 'mine'\n"
        "from mixalign.data.read.formats import to_example\n"
        "assert to_example({'question': 'a', 'answer': 'b'}, {}) == {'prompt': 'a', 'completion': 'b'}\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    python("-c", code)
    assert "\n  hello        Says hello\n               to whoever asks\n" in python("-m", "mixalign")
    assert python("-m", "mixalign", "hello") == "hello\n"

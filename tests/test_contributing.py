"""CONTRIBUTING's table holds: one of each is added in a temporary folder, by its file and its YAML, and used."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.tiny_runs import FIRST_TASK

ROOT = Path(__file__).resolve().parents[1]

MINE = '''
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from mixalign.models.forward import score_completions


@dataclass(frozen=True)
class Halved:
    """Half the cross-entropy of a row; no metric beside it."""

    factor: float = 0.5
    name, form, uses_reference, metrics = "halved", "supervised", False, ()

    def for_tasks(self, overrides):
        return self

    def scores(self, logp_BS, batch):
        return {"loss": -self.factor * logp_BS[:, 0]}

    def __call__(self, model, batch):
        return self.scores(score_completions(model, batch).logp_BS, batch)


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


@pytest.mark.long
def test_from_outside(cli, tiny, tmp_path):
    """A mixer, an objective, a callback, a logger and a data preset: two steps with all of them."""
    (tmp_path / "mine.py").write_text(FIRST_TASK + MINE)
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


MIXER = """from dataclasses import dataclass
from typing import ClassVar

from mixalign.checks import check_number
from mixalign.mixers.base import Mix, Rule, read
from mixalign.mixers.simplex import ascend, uniform


@dataclass(frozen=True)
class Mine(Rule):
    eta: float = 0.05

    needs: ClassVar[frozenset[str]] = frozenset({"loss_K"})
    composition: ClassVar[str] = "stratified"
    descends_on: ClassVar[str] = "loss"
    clip: ClassVar[str] = "none"

    def __post_init__(self):
        check_number("mixer.eta", self.eta, 0)

    def init(self, rows_K):
        log_q_K = uniform(len(rows_K)).log()
        return Mix(uniform(len(rows_K)), log_q_K.exp()), {"log_q_K": log_q_K}

    def update(self, signal, state):
        log_q_K = ascend(state["log_q_K"], read(signal, "loss_K", state["log_q_K"]), self.eta)
        return Mix(uniform(len(log_q_K)), log_q_K.exp()), {"log_q_K": log_q_K}
"""
VERB = """'''Says hello: to whoever asks.'''


def main() -> None:
    print("hello")
"""
FORMAT = """def _mine(fields: Row) -> Example:
    return {"prompt": fields["query"], "completion": fields["reply"]}


"""
TEST_OF_FORMAT = """    "mine": ({"query": "1+1=", "reply": "2"}, {"prompt": "1+1=", "completion": "2"}),
"""
CURVATURE = """    "mine": Curvature(lambda basis: Block(basis, torch.ones_like(Block.kfac(basis).curvature_OI))),
"""
LINES = (  # of a table that is there: file, the line before which one is put, and that one
    ("mixalign/losses/preference.py", '    "robust": Pref', '    "mine": PreferenceLoss(robust, smooths=True),\n'),
    ("tests/losses/test_preference.py", '    "hinge": ("hinge"', '    "mine": ("mine", SUMS, {}, 0.313262),\n'),
    ("conf/objective/dpo.yaml", "robust, hinge", "mine, "),
    ("mixalign/influence/curvature.py", '    "kfac": Curv', CURVATURE),
    ("mixalign/influence/curvature.py", "from mixalign.influence.solve", "import torch\n\n"),
    ("mixalign/data/read/formats.py", "FORMATS: ", FORMAT),
    ("mixalign/data/read/formats.py", '    (("text",)', '    (("query", "reply"), (), _mine),\n'),
    ("tests/data/read/test_formats.py", '    "text": (', TEST_OF_FORMAT),
)
YAML = {
    "mixer/mine": {"_target_": "mixalign.mixers.mine.Mine", "name": "mine", "eta": 0.05},
    "influence/mine": {"defaults": ["_base"], "curvature": "mine"},
}
NEW = "(mine or verb or layer or downwards) and not slow"
THEIR_TESTS = (
    "losses",
    "mixers",
    "data/read",
    "objectives/test_against_trl.py",
    "program/test_cli.py",
    "test_conf.py",
    "test_architecture.py",
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository with a mixer, a preference loss, a format, a curvature and a verb more."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("mixalign", "conf", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "mixalign" / "mixers" / "mine.py").write_text(MIXER)
    (folder / "mixalign" / "verbs" / "hello.py").write_text(VERB)
    write(folder / "conf", YAML)
    for file, before, text in LINES:
        content = (folder / file).read_text()
        assert content.count(before) == 1, f"{file} has {content.count(before)} times {before!r}"
        (folder / file).write_text(content.replace(before, text + before))
    return folder


@pytest.fixture
def python(copy):
    """Runs Python with arguments in the copy; gives what it printed."""

    def run(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr
        return done.stdout

    return run


@pytest.mark.long
def test_what_is_added_inside_is_there_by_its_file_and_a_line(python):
    code = (
        "from mixalign.config.compose import compose_settings as c\n"
        "assert c(['objective.loss=mine', 'mixer=mine']).objective.loss == 'mine'\n"
        "assert c(['mixer=ideal', 'influence=mine']).influence.is_curved\n"
    )
    python("-c", code)
    assert "\n  hello        Says hello\n               to whoever asks\n" in python("-m", "mixalign")
    assert python("-m", "mixalign", "hello") == "hello\n"


@pytest.mark.long
def test_the_tests_that_are_there_take_it_in(python):
    """No test holds a list that somebody would have to edit; those of all mixers, losses, formats have one more."""
    out = python("-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in THEIR_TESTS), "-k", NEW)
    assert "passed" in out

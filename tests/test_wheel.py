"""A mixer of a user's own, with a configuration of the user's own, drives an installed wheel."""

import json
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from mixalign import __version__

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
RULE = '''
from dataclasses import dataclass
from typing import ClassVar

from mixalign.mixers.base import Mix, read
from mixalign.mixers.simplex import uniform


@dataclass(frozen=True)
class Hardest:
    """Half of the rows come from the task with the greatest loss."""

    bonus: float = 0.5

    needs: ClassVar[frozenset[str]] = frozenset({"loss_K"})
    composition: ClassVar[str] = "stratified"
    descends_on: ClassVar[str] = "loss"
    clip: ClassVar[str] = "none"

    def init(self, rows_K):
        return Mix(uniform(len(rows_K))), {"sample_K": uniform(len(rows_K))}

    def update(self, signal, state):
        sample_K = (1 - self.bonus) * uniform(len(state["sample_K"]))
        sample_K[read(signal, "loss_K", sample_K).nan_to_num(0.0).argmax()] += self.bonus
        return Mix(sample_K), {"sample_K": sample_K}
'''
SETTINGS = """
_target_: my_rules.Hardest
name: hardest
bonus: 0.5
"""
TASKS = [f"data.tasks.{task}=null" for task in ("format", "safe", "taste")]
TASKS += [
    f"data.tasks.{task}={{generator: {task}, rows: 40, validation_rows: 8, test_rows: 8}}"
    for task in ("helpful", "reverse", "compare")
]
TINY = ["model.hidden_size=16", "model.num_layers=1", "model.num_heads=2", "model.intermediate_size=32", "batch_size=6"]
SHORT = ["steps=3", "reference.sft_steps=2", "progress=false", "trainer.accelerator=cpu", "cache_dir=cache"]


def do(command, folder, **environment):
    """Runs a program outside of the checkout, without what this process has on its path."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MIXALIGN_TARGETS")}
    settings = kept | {"OMP_NUM_THREADS": "1", "PIP_NO_INPUT": "1", "HF_HUB_OFFLINE": "1"} | environment
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the package as a wheel installs it."""
    for module in ("pip", "hatchling"):
        if not list(distributions(name=module)):  # `find_spec` of pip sets off a hook of setuptools that warns
            pytest.skip(f"{module} is not installed: pip install 'mixalign[dev]'")
    folder = tmp_path_factory.mktemp("wheel")
    offline = ["--no-deps", "--no-index"]
    build = [*PIP, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    done = do(build, folder)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("mixalign-*.whl")
    done = do([*PIP, "install", *offline, "--target", str(folder / "site"), str(wheel)], folder)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def mine(tmp_path):
    """A user's folder: a module with a rule, and its settings where Hydra looks for them."""
    (tmp_path / "my_rules.py").write_text(RULE)
    (tmp_path / "conf" / "mixer").mkdir(parents=True)
    (tmp_path / "conf" / "mixer" / "hardest.yaml").write_text(SETTINGS)
    return tmp_path


@pytest.mark.long
def test_a_rule_from_outside_trains_with_an_installed_wheel(installed, mine):
    path = {"PYTHONPATH": os.pathsep.join([str(installed), str(mine)]), "MIXALIGN_TARGETS": "my_rules.Hardest"}
    where = do([sys.executable, "-c", "import mixalign; print(mixalign.__file__)"], mine, **path)
    assert Path(where.stdout.strip()).is_relative_to(installed), "the checkout would be tested, not the wheel"
    choice = ["--config-dir", "conf", "mixer=hardest", "mixer.bonus=0.7"]
    command = [sys.executable, "-m", "mixalign", "train", *choice, *TASKS, *TINY, *SHORT, "run_dir=run"]
    done = do(command, mine, **path)
    assert done.returncode == 0, done.stderr
    mixes = [json.loads(line)["sample"] for line in (mine / "run" / "mix.jsonl").read_text().splitlines()]
    assert mixes[0] == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert sorted(mixes[-1]) == pytest.approx([0.1, 0.1, 0.8], abs=1e-6), "the rule's own arithmetic"
    assert "_target_: my_rules.Hardest" in (mine / "run" / "config.yaml").read_text()


def test_it_has_types_and_the_version_that_is_written_once(installed):
    assert (installed / "mixalign" / "py.typed").is_file()
    (there,) = distributions(name="mixalign", path=[str(installed)])
    assert there.version == __version__


def test_the_page_of_a_report_comes_with_its_template_and_style(installed):
    show = installed / "mixalign" / "reporting" / "show"
    assert {"page.html.j2", "page.css"} <= {path.name for path in show.iterdir()}


def test_chat_templates_come_with_it(installed):
    there = {path.name for path in (installed / "mixalign" / "chat").glob("*.jinja")}
    assert there == {path.name for path in (ROOT / "mixalign" / "chat").glob("*.jinja")} != set()

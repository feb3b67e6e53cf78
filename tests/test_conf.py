"""Every file of the configuration composes with the root, resolves, and builds what it describes."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from mixalign.config.build import build
from mixalign.config.compose import CONF, compose_config, settings_of
from mixalign.data.read.sources import TaskSpec
from mixalign.errors import MixalignError
from mixalign.losses.preference import LOSSES
from mixalign.mixers.base import Mixer
from mixalign.models.load import LoRA, add_lora
from mixalign.objectives.dpo import DPO
from mixalign.objectives.sft import SFT

OPTIONS = {
    group.name: sorted(path.stem for path in group.glob("[!_]*.yaml"))
    for group in sorted(CONF.iterdir())
    if group.is_dir() and group.name not in ("hydra", "local")
}
CHOICES = [f"{group}={name}" for group, names in OPTIONS.items() for name in names]
MUST_BE_GIVEN = {"model=pretrained": ["model.path=somewhere"], "model=gguf": ["model.gguf_file=some.gguf"]}


def settings(*overrides):
    return settings_of(compose(*overrides))


def compose(*overrides):
    return compose_config([text for one in overrides for text in (one, *MUST_BE_GIVEN.get(one, []))])


def targets(node):
    """The nodes below that name a class."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)


@pytest.mark.parametrize("choice", CHOICES)
def test_composes_resolves_and_names_real_arguments(choice):
    """Config keys are constructor arguments: a key that the class does not take would fail only when it is used."""
    cfg = OmegaConf.to_container(compose(choice), resolve=True, throw_on_missing=True)
    for node in targets(cfg):
        kind = get_class(node["_target_"])
        if is_dataclass(kind) and kind.__module__.startswith("mixalign."):
            assert {*node} - {"_target_", "name", "wrap"} == {f.name for f in fields(kind)}


@pytest.mark.parametrize("group", OPTIONS)
def test_an_unknown_option_lists_the_known_ones(group):
    with pytest.raises(MixalignError) as error:
        compose(f"{group}=nonsense")
    assert f"There is no `{group}=nonsense`. " in str(error.value)
    for name in OPTIONS[group]:
        assert name in str(error.value)


def test_groups_are_all_there():
    """Groups may grow; these are what the rest of this file builds."""
    assert {"data", "logger", "lora", "mixer", "model", "objective", "optimizer", "trainer"} <= {*OPTIONS}
    assert {"tiny", "pretrained"} <= {*OPTIONS["model"]}


def test_the_file_of_dpo_names_every_loss():
    """The file is where users look for what can be set."""
    (comment,) = [
        line for line in (CONF / "objective" / "dpo.yaml").read_text().splitlines() if line.startswith("loss:")
    ]
    assert {*re.findall(r"\w+", comment)} >= {*LOSSES}


@pytest.mark.parametrize("name", OPTIONS["mixer"])
def test_mixers_build(name):
    assert isinstance(settings(f"mixer={name}").mixer, Mixer)


@pytest.mark.parametrize(("name", "kind"), [("dpo", DPO), ("sft", SFT)])
def test_objectives_build(name, kind):
    assert isinstance(settings(f"objective={name}").objective, kind)


def test_the_tiny_model_and_lora_build():
    made = settings("model=tiny", "lora=default", "lora.r=2")
    assert made.lora == LoRA(r=2)
    model = add_lora(made.model.build(), made.lora)
    trained, total = model.get_nb_trainable_parameters()
    assert 0 < trained < total / 10


def test_no_lora_builds_nothing():
    assert settings("lora=none").lora is None


def test_the_csv_logger_builds(tmp_path):
    (node,) = settings("logger=csv").logger.values()
    logger = build(node, save_dir=str(tmp_path))
    assert Path(logger.log_dir) == tmp_path, "metrics.csv lies in the run's folder itself"


def test_both_loggers_are_the_two_loggers():
    csv, wandb = settings("logger=csv").logger, settings("logger=wandb").logger
    assert settings("logger=both").logger == csv | wandb


def test_a_task_can_be_added_without_a_plus():
    tasks = settings("data=local", "data.tasks.math.path=math.jsonl", "data.tasks.math.max_rows=10").data.tasks
    assert tasks == {"math": TaskSpec(path="math.jsonl", max_rows=10)}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("mixer=amas", "There is no `mixer=amas`. Did you mean `ama_s`? Known: ado, "),
        ("mixer.etta=1", "Did you mean `eta`?"),
        ("stepz=5", "Did you mean `steps`?"),
        ("optimizer.learning_rate=1", "`optimizer.learning_rate` is no setting. It is `optimizer.lr` here."),
        ("steps 5", "steps 5"),
    ],
)
def test_mistakes_are_explained(override, says):
    with pytest.raises(MixalignError) as error:
        compose(override)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"_target_": "os.system", "command": "true"}, "`_target_: os.system` may not be built"),
        ({"_target_": "mixalign.mixers.ama_s.AMAS", "etta": 1}, "etta"),
        ({"_target_": "mixalign.mixers.ama_s.AMAS", "eta": -1}, "`mixer.eta` is -1"),
        ({"_target_": "mixalign.mixers.nowhere.Rule"}, "mixalign.mixers.nowhere"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(node, says):
    with pytest.raises(MixalignError) as error:
        build(node)
    assert says in str(error.value)


def test_a_class_of_ones_own_can_be_allowed(monkeypatch):
    node = {"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2}
    with pytest.raises(MixalignError, match="MIXALIGN_TARGETS"):
        build(node)
    monkeypatch.setenv("MIXALIGN_TARGETS", "else.where, fractions.Fraction")
    assert build(node) == 0.5

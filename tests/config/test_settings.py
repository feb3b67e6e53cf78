"""What each key touches, said once: it decides what a resumed run may change, and what reports and fits compare."""

from dataclasses import FrozenInstanceError, fields

import pytest

from mixalign.config.compose import compose_config, compose_settings
from mixalign.config.parse import parse, parse_saved
from mixalign.config.settings import GROUPS, MergeSettings, ProbeSettings, RunSettings, names_a_run, touches
from mixalign.errors import MixalignError
from mixalign.influence.settings import Influence


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("optimizer.lr", "weights"),
        ("mixer.eta", "weights"),
        ("data.max_length", "weights"),
        ("trainer.precision", "weights"),
        ("callbacks.early_stopping.patience", "weights"),
        ("engine.threads", "speed"),
        ("micro_batch_size", "speed"),
        ("trainer.devices", "speed"),
        ("data.workers", "speed"),
        ("name", "place"),
        ("logger.csv._target_", "place"),
        ("merge.methods", "place"),
        ("cache_dir", "place"),
        ("nobody.knows", "weights"),
        ("trainer.gradient_clip_val", "weights"),
    ],
)
def test_what_a_key_touches(key, what):
    assert touches(key) == what


@pytest.mark.parametrize(
    ("key", "says_which"),
    [("seed", True), ("specialists.seed", True), ("name", True), ("merge.trials", True), ("optimizer.lr", False)],
)
def test_seeds_and_places_say_which_run_of_the_same_settings_it_is(key, says_which):
    assert names_a_run(key) is says_which


def test_every_key_of_the_configuration_has_a_field():
    composed = compose_config([])
    known = {entry.name for entry in fields(RunSettings) if "touches" in entry.metadata}
    assert {str(key) for key in composed} == known
    for group, kind in GROUPS.items():
        assert {str(key) for key in composed[group]} == {entry.name for entry in fields(kind)}


def test_settings_are_frozen_and_parsing_changes_nothing_that_it_was_given():
    config = dict(compose_settings(["steps=7"]).plain) | {"batch_size": "auto"}
    settings = parse(config)
    assert config["batch_size"] == "auto"
    assert (settings.batch_size, settings.plain["batch_size"]) == (42, 42)
    with pytest.raises(FrozenInstanceError):
        settings.steps = 8


def test_keys_of_another_version_are_left_out_of_what_it_wrote():
    config = dict(compose_settings([]).plain)
    other = config | {"new": 1, "probe": {**config["probe"], "new": 2}}
    assert parse_saved(other).plain == config


def test_settings_that_came_later_have_their_defaults_in_what_an_older_version_wrote():
    """So that its runs go on: their claim compares what it says with what it would say today."""
    config = dict(compose_settings(["mixer=ama_s", "lora=default"]).plain)
    later = {"optimizer": ("eps", "min_lr", "decay_steps"), "lora": ("use_rslora",), "mixer": ("eta",)}
    older = {
        name: {key: value for key, value in node.items() if key not in later[name]} if name in later else node
        for name, node in config.items()
    }
    assert {**older} != config
    assert parse_saved(older).plain == config


def test_keys_of_an_older_version_are_those_of_today_in_what_it_wrote_and_nowhere_else():
    config = dict(compose_settings(["data.target=[helpful]"]).plain)
    data = {key: value for key, value in config["data"].items() if key != "target"}
    older = {key: value for key, value in config.items() if key not in ("probe", "merge", "influence")}
    older |= {
        "model": config["model"] | {"recommended": {"learning_rate": 1e-3}},
        "data": data | {"reference": ["helpful"], "recommended": {"learning_rate": 1e-3}},
    }
    settings = parse_saved(older)
    assert settings.data.target == ("helpful",)
    assert settings.data.recommended is None
    assert (settings.probe, settings.merge, settings.influence) == (ProbeSettings(), MergeSettings(), Influence())
    assert older["data"]["reference"] == ["helpful"]
    with pytest.raises(MixalignError, match=r"`data\.reference` is no setting"):
        parse(config | {"data": data | {"reference": ["helpful"]}})

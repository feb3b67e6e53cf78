"""The comparison of all methods: what its presets expand to, and what its runs record of their cost."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from mixalign.config.compose import CONF, compose_settings
from mixalign.frozen.behind import cost_behind
from mixalign.frozen.policy import reference_policy
from mixalign.frozen.specialists import find_specialists
from mixalign.jobs.job import prepare

PRESETS = ("compare_dpo", "compare_sft")
LEFT_OUT = {"fixed", "random_mixture", "schedule"}  # somebody has to choose their mixture
MIXERS = {path.stem for path in (CONF / "mixer").glob("*.yaml")}


def swept(preset):
    """What `-m experiment=<preset>` runs over, by key."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"experiment={preset}"], return_hydra_config=True)
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        found = parser.parse_overrides([f"{key}={value}" for key, value in cfg.hydra.sweeper.params.items()])
        return {one.key_or_group: list(one.sweep_string_iterator()) for one in found}


def read(path: Path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_mixer_takes_part_on_five_seeds(preset):
    found = swept(preset)
    assert {*found["mixer"]} == MIXERS - LEFT_OUT
    assert {"uniform", "proportional", "temperature", "ama_s"} <= {*found["mixer"]}
    assert found["seed"] == ["0", "1", "2", "3", "4"]
    assert list(found) == ["mixer", "seed"]  # the last one varies fastest: runs side by side have different seeds


@pytest.mark.parametrize("preset", PRESETS)
def test_seeds_share_nothing_and_methods_of_a_seed_share_all(preset):
    s = compose_settings([f"experiment={preset}", "seed=3", "mixer=odm"])
    assert {s.seed, s.data.seed, s.model.seed, s.reference.seed, s.specialists.seed} == {3}
    other = compose_settings([f"experiment={preset}", "seed=3", "mixer=uniform"]).plain
    assert {key for key, value in s.plain.items() if value != other[key]} == {"mixer", "name"}
    assert s.export == "last"
    assert s.steps % s.val_every == 0


def test_the_two_presets_differ_in_the_objective_and_its_length():
    dpo, sft = (compose_settings([f"experiment={preset}"]).plain for preset in PRESETS)
    assert (dpo["objective"]["name"], sft["objective"]["name"]) == ("dpo", "sft")
    assert dpo["data"]["tasks"] == sft["data"]["tasks"]
    changed = {key for key, value in dpo.items() if value != sft[key]}
    assert changed == {"objective", "optimizer", "steps", "val_every", "specialists"}  # the last by its learning rate


@pytest.mark.parametrize("preset", PRESETS)
def test_run_folders_are_named_by_method_and_seed(preset):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [f"experiment={preset}", "mixer=odm", "seed=2", "hydra.sweep.dir=x"]
        cfg = compose("train", overrides, return_hydra_config=True)
    assert cfg.hydra.sweep.subdir == "odm_seed2"


@pytest.mark.slow
def test_a_run_says_what_it_cost(finished):
    cost = read(finished / "cost.json")
    assert cost["steps"] == 4
    assert cost["processes"] == 1
    assert cost["seconds"] > 0
    assert cost["cpu_seconds"] > 0
    behind = cost["leans_on"]["specialists"]
    assert behind["steps"] == 3 * 3  # three specialists of three steps
    assert behind["cpu_seconds"] > 0


@pytest.mark.slow
def test_a_method_is_billed_for_what_it_reads(finished, tiny, cache):
    job, reference = reference_policy(prepare(compose_settings(tiny("mixer=ama_s"))))
    for mixer, steps in (("uniform", None), ("odm", None), ("ama_r", 9)):
        bill = cost_behind(job, reference, compose_settings(tiny(f"mixer={mixer}")).mixer)
        assert bill.get("specialists", {}).get("steps") == steps
    record = cache / "costs" / f"{find_specialists(job, reference)['helpful'].identity}.json"
    assert read(record)["cpu_seconds"] > 0


@pytest.mark.slow
def test_specialists_without_a_record_have_steps_and_no_seconds(finished, tiny, cache, tmp_path):
    job, reference = reference_policy(prepare(compose_settings(tiny("mixer=ama_s"))))
    elsewhere = replace(job, settings=replace(job.settings, cache_dir=tmp_path))
    bill = cost_behind(elsewhere, reference, job.settings.mixer)
    assert bill == {"specialists": {"steps": 9, "seconds": None, "cpu_seconds": None}}

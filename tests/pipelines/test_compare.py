"""The comparison of all methods: what its presets expand to, and what its runs record of their cost."""

import json
import threading
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from mixalign.fingerprint import fingerprint
from mixalign.pipelines.api import compose_config
from mixalign.pipelines.build import CONF, build_mixer, plain
from mixalign.pipelines.job import prepare
from mixalign.pipelines.ranks import alone
from mixalign.pipelines.stages import find_specialists, leans_on, reference_policy

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
    cfg = compose_config([f"experiment={preset}", "seed=3", "mixer=odm"])
    assert {cfg.seed, cfg.data.seed, cfg.model.seed, cfg.reference.seed, cfg.specialists.seed} == {3}
    other = plain(compose_config([f"experiment={preset}", "seed=3", "mixer=uniform"]))
    assert {key for key, value in plain(cfg).items() if value != other[key]} == {"mixer", "name"}
    assert cfg.export == "last"
    assert cfg.steps % cfg.val_every == 0


def test_the_two_presets_differ_in_the_objective_and_its_length():
    dpo, sft = (plain(compose_config([f"experiment={preset}"])) for preset in PRESETS)
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
    job = prepare(compose_config(tiny("mixer=ama_s")))
    reference = reference_policy(job)
    for mixer, steps in (("uniform", None), ("odm", None), ("ama_r", 9)):
        bill = leans_on(job, reference, build_mixer(compose_config(tiny(f"mixer={mixer}")).mixer))
        assert bill.get("specialists", {}).get("steps") == steps
    _, recipe = find_specialists(job, reference)["helpful"]
    record = cache / "costs" / f"{fingerprint(recipe)}.json"
    assert read(record)["cpu_seconds"] > 0


@pytest.mark.slow
def test_specialists_without_a_record_have_steps_and_no_seconds(finished, tiny, cache, tmp_path):
    job = prepare(compose_config(tiny("mixer=ama_s")))
    reference = reference_policy(job)
    job.cfg.cache_dir = str(tmp_path)
    bill = leans_on(job, reference, build_mixer(job.cfg.mixer))
    assert bill == {"specialists": {"steps": 9, "seconds": None, "cpu_seconds": None}}


def test_one_after_the_other_holds_a_lock(tmp_path):
    told = []

    def work(name):
        with alone(tmp_path / "locks" / "x"):
            told.append(name)

    with alone(tmp_path / "locks" / "x"):
        other = threading.Thread(target=work, args=("second",))
        other.start()
        other.join(0.2)
        told.append("first")
    other.join(10)
    assert told == ["first", "second"]

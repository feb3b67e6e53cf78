"""What Lightning's Trainer gets, and which wishes for processes are refused."""

import pytest
from lightning.pytorch.strategies import DDPStrategy

from mixalign.config.compose import compose_settings
from mixalign.errors import MixalignError
from mixalign.together.trainer import probe_trainer, trainer_options
from mixalign.training.sharding import FullySharded

CPU = "trainer.accelerator=cpu"


def test_the_trainer_gets_what_the_settings_name_and_the_chosen_precision():
    settings = compose_settings([CPU, "trainer.precision=auto", "trainer.detect_anomaly=true"])
    assert trainer_options(settings, "bf16-mixed") == {
        "accelerator": "cpu",
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "precision": "bf16-mixed",
        "detect_anomaly": True,
    }


def test_each_training_builds_its_own_strategy():
    settings = compose_settings(["trainer=fsdp2", CPU, "trainer.devices=1"])
    first, second = (trainer_options(settings, "32-true")["strategy"] for _ in range(2))
    assert isinstance(first, FullySharded)
    assert isinstance(second, FullySharded)
    assert first is not second
    assert settings.plain["trainer"]["strategy"]["_target_"].endswith("FullySharded")


@pytest.mark.parametrize("preset", ["ddp", "fsdp2"])
def test_a_verb_that_is_not_on_all_ranks_trains_on_one_process(preset):
    options = trainer_options(compose_settings([f"trainer={preset}", CPU, "trainer.devices=2"]), "32-true")
    assert (options["devices"], options["num_nodes"], options["strategy"]) == (1, 1, "auto")


def test_plainly_one_process_needs_no_probe():
    assert probe_trainer(compose_settings([CPU]).trainer) is None


@pytest.mark.parametrize(("preset", "kind"), [("ddp", DDPStrategy), ("fsdp2", FullySharded)])
def test_the_probe_counts_processes(preset, kind):
    probe = probe_trainer(compose_settings([f"trainer={preset}", CPU, "trainer.devices=3"]).trainer)
    assert probe.world_size == 3
    assert isinstance(probe.strategy, kind)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.devices=0"], "Lightning refuses the settings of `trainer`: .*devices"),
        (["trainer.devices=2", "trainer.strategy=unheard"], "Lightning refuses the settings of `trainer`: .*unheard"),
        (["trainer.devices=2", "trainer.strategy=5"], "Lightning refuses the settings of `trainer`: .*`strategy=5`"),
        (["trainer.devices=2", "trainer.strategy=ddp_spawn"], r"`trainer.strategy` is ddp_spawn, .*Use `trainer=ddp`"),
    ],
)
def test_processes_that_stages_cannot_share_are_refused(overrides, message):
    settings = compose_settings([CPU, *overrides])
    with pytest.raises(MixalignError, match=message):
        probe_trainer(settings.trainer)
    with pytest.raises(MixalignError, match=message):
        trainer_options(settings, "32-true")


def test_deepspeed_exports_the_last_model_only():
    """Its checkpoints are its own; that the library is not installed is said later."""
    settings = compose_settings(["trainer=deepspeed", "export=best"])
    with pytest.raises(MixalignError, match=r"DeepSpeed.*set `export=last`"):
        trainer_options(settings, "bf16-mixed")

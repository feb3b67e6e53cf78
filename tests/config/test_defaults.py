"""What keys that are `auto` become, and that a value which somebody sets wins."""

import pytest

from mixalign.config.compose import compose_settings
from mixalign.config.defaults import AUTO, LORA_FACTOR

OWN = ["model=pretrained", "model.path=x", "data=local"]


def lines(settings):
    return "; ".join(settings.chosen)


@pytest.mark.long
@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        ([], 4e-4),
        (["objective=sft"], 3e-3),
        (["objective=kto"], 4e-4),
        (OWN, 1e-6),
        ([*OWN, "objective=sft"], 2e-5),
        ([*OWN, "objective=kto"], 1e-6),
        ([*OWN, "lora=default"], 1e-5),
        ([*OWN, "lora=default", "objective=sft"], 2e-4),
    ],
)
def test_the_learning_rate_follows_model_adapter_and_objective(overrides, rate):
    settings = compose_settings(overrides)
    assert settings.optimizer.lr == settings.specialists.lr == pytest.approx(rate)
    assert f"optimizer.lr={settings.optimizer.lr}" in lines(settings)
    assert compose_settings([*overrides, "optimizer.lr=0.5"]).specialists.lr == 0.5


def test_an_adapter_takes_ten_times_the_rate():
    full, adapter = compose_settings(OWN), compose_settings([*OWN, "lora=default"])
    assert adapter.optimizer.lr == pytest.approx(LORA_FACTOR * full.optimizer.lr)
    assert "an adapter on a trained model" in lines(adapter)


def test_own_tasks_on_a_trained_model():
    settings = compose_settings(OWN)
    assert (settings.steps, settings.epochs, settings.batch_size) == (None, 1, 32)
    assert (settings.micro_batch_size, settings.eval_batch_size) == (AUTO, AUTO), "by memory, when the model is there"
    assert settings.engine.threads is None
    assert (settings.reference.sft_steps, settings.objective.beta) == (0, 0.1)


def test_generated_tasks_on_random_weights():
    settings = compose_settings([])
    assert (settings.steps, settings.epochs, settings.batch_size) == (150, None, 42)
    assert (settings.reference.sft_steps, settings.specialists.steps, settings.engine.threads) == (500, 200, 1)
    assert "the data preset" in lines(settings)


@pytest.mark.parametrize(
    ("overrides", "share"),
    [
        ([], 0.3),
        (["export=best_gap"], 0.3),
        (["export=last"], None),
        (["export=averaged"], None),
        (["trainer=ddp"], 0.3),
        (["trainer=fsdp2"], None),
        (["average_last=null"], None),
        (["export=last", "average_last=0.5"], 0.5),
    ],
)
def test_the_mean_of_the_weights_is_a_candidate_where_validations_choose(overrides, share):
    settings = compose_settings(overrides)
    assert settings.average_last == share
    assert ("average_last=null (fullysharded spreads" in lines(settings)) == ("trainer=fsdp2" in overrides)


def test_epochs_that_are_set_go_before_steps_that_are_not():
    settings = compose_settings(["epochs=2", "specialists.epochs=3", "reference.sft_epochs=1"])
    assert (settings.steps, settings.epochs) == (None, 2)
    assert (settings.specialists.steps, settings.specialists.epochs) == (None, 3)
    assert (settings.reference.sft_steps, settings.reference.sft_epochs) == (None, 1)
    assert compose_settings(["epochs=2", "steps=7"]).steps == 7


def test_what_is_set_wins_and_nothing_stays_auto():
    settings = compose_settings(["steps=7", "objective.beta=0.3", "micro_batch_size=3", "engine.threads=2"])
    assert (settings.steps, settings.objective.beta, settings.micro_batch_size) == (7, 0.3, 3)
    assert "objective.beta" not in lines(settings)

    def values(node):
        for value in node.values() if isinstance(node, dict) else node:
            yield from values(value) if isinstance(value, dict | list) else [value]

    may_be = {
        "precision",
        "accelerator",
        "strategy",
        "train",
        "layout",
        "compile",
        "samples",
    }  # have an `auto` of their own
    groups = ((k, n if isinstance(n, dict) else {k: n}) for k, n in settings.plain.items())
    kept = {k: {i: v for i, v in n.items() if i not in may_be} for k, n in groups}
    assert AUTO not in values(kept)


@pytest.mark.parametrize(
    ("overrides", "warmup"),
    [([], 10), (OWN, 0.1), ([*OWN, "lora=default"], 0.1), ([*OWN, "optimizer.warmup_steps=3"], 3)],
)
def test_the_warm_up_of_a_trained_model_is_a_share_of_its_steps(overrides, warmup):
    settings = compose_settings(overrides)
    assert settings.optimizer.warmup_steps == warmup
    assert ("optimizer.warmup_steps" in lines(settings)) is (overrides[-1:] != ["optimizer.warmup_steps=3"])

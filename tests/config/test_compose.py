"""The configuration composed: resolvers, tasks without a plus, keys of older versions."""

import logging

import pytest
from omegaconf import OmegaConf

from mixalign.config.compose import CONF, compose_config, compose_settings, register_resolvers
from mixalign.errors import MixalignError


def test_the_resolver_or_takes_the_second_when_the_first_is_null():
    register_resolvers()
    cfg = OmegaConf.create({"a": None, "b": "x", "first": "${or:${a},y}", "second": "${or:${b},y}"})
    assert (cfg.first, cfg.second) == ("y", "x")


def test_the_configuration_lies_beside_the_package_or_in_it():
    assert (CONF / "train.yaml").is_file()
    assert CONF.name == "conf"


def test_a_task_is_added_without_a_plus():
    cfg = compose_config(["data=local", "data.tasks.math.path=math.jsonl", "data.tasks.math.max_rows=10"])
    assert cfg.data.tasks == {"math": {"path": "math.jsonl", "max_rows": 10}}


@pytest.mark.parametrize("override", ["data.reference=[helpful]", "+data.reference=[helpful]"])
def test_a_key_of_an_older_version_is_still_read(override, caplog):
    with caplog.at_level(logging.WARNING):
        assert compose_settings([override]).data.target == ("helpful",)
    assert "`data.reference` is called `data.target` now" in caplog.text


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("mixer.wrap=5", "`mixer.wrap` is 5, but must be a mapping"),
        ("objective.name=null", "`objective.name` is None, but must be a text"),
        ("data.recommended=5", "`data.recommended` is 5, but must be a mapping"),
        ("~specialists", "`specialists` is missing"),
        ("~influence", "`influence` is missing"),
        ("probe=3", "`probe` is 3, but must be a mapping"),
        ("+lr=1e-4", "`lr` is no setting. Did you mean `optimizer.lr` or `specialists.lr`?"),
        ("lr=1e-4", "`lr` is no setting. Did you mean `optimizer.lr` or `specialists.lr`?"),
        ("+early_stopping=3", "`early_stopping` is no setting. Did you mean `callbacks=early_stopping`?"),
        ("trainer.limit_val_batches=1", "`trainer.limit_val_batches` cannot be set, because"),
        ("mixer.wrap.flor=3", "`mixer.wrap.flor` is no setting. Did you mean `floor`?"),
        ("+beta=.2", "`beta` is no setting. Did you mean `objective.beta`?"),
        ("+step=3", "`step` is no setting. Did you mean `steps`?"),
        ("+reference.sft_step=3", "`reference.sft_step` is no setting. Did you mean `sft_steps`?"),
        ("+data.max_lenght=3", "`data.max_lenght` is no setting. Did you mean `max_length`?"),
        ("+probe.row=3", "`probe.row` is no setting. Did you mean `rows`?"),
        ("+merge.method=[ties]", "`merge.method` is no setting. Did you mean `methods`?"),
        ("+optimizer.learning_rate=1", "`learning_rate` is no setting of mixalign.training.optimizer.Optimizer."),
        ("+engine.layuot=packed", "`layuot` is no setting of mixalign.training.engine.Engine. Did you mean `layout`?"),
        ("+influence.sample=3", "`sample` is no setting of mixalign.influence.settings.Influence. Did you mean"),
        ("+mixer.etta=3", "`etta` is no setting of mixalign.mixers.ama_s.AMAS. Did you mean `eta`?"),
        ("+mixer.wrap.flor=3", "`mixer.wrap.flor` is no setting. Did you mean `floor`?"),
        ("+objective.bta=3", "`bta` is no setting of mixalign.objectives.dpo.DPO. Did you mean `beta`?"),
        ("+model.layers=3", "`layers` is no setting of mixalign.models.tiny.TinyLlama. Did you mean `num_layers`?"),
        ("+logger.csv.folder=x", "`folder` is no setting of mixalign.training.metrics_file.MetricsFile."),
        ("+logger.other=3", "`logger.other` is 3, and has no `_target_`"),
        ("+callbacks.other=3", "`callbacks.other` is 3, and has no `_target_`"),
        ("+lora.r=3", "has no `_target_`"),
        ("+data.recommended.step=3", "`data.recommended.step` is no setting. Did you mean `steps`?"),
    ],
)
def test_what_cannot_be_is_refused_by_name_also_with_a_plus(override, says):
    with pytest.raises(MixalignError) as caught:
        compose_settings([override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value), "the configuration library has nothing to add"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["callbacks=early_stopping", "+callbacks.early_stopping.patiense=3"], "Did you mean `patience`?"),
        (["lora=default", "+lora.dropout=.5"], "`dropout` is no setting of .*LoRA. Did you mean `lora_dropout`?"),
        (["+callbacks.mine={_target_: lightning.pytorch.callbacks.Timer, duraton: 1}"], "Did you mean `duration`?"),
    ],
)
def test_nor_what_a_constructor_does_not_take(overrides, says):
    with pytest.raises(MixalignError, match=says):
        compose_settings(overrides)

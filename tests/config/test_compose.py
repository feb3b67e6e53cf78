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
        ("+lr=1e-4", "`lr` is no setting"),
        ("+early_stopping=3", "`early_stopping` is no setting"),
        ("+reference.sft_step=3", "`reference.sft_step` is no setting. Did you mean `sft_steps`?"),
        ("+data.max_lenght=3", "`data.max_lenght` is no setting. Did you mean `max_length`?"),
        ("+probe.row=3", "`probe.row` is no setting. Did you mean `rows`?"),
    ],
)
def test_what_cannot_be_is_refused_by_name_also_with_a_plus(override, says):
    with pytest.raises(MixalignError) as caught:
        compose_settings([override])
    assert says in str(caught.value)
